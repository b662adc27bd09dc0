"""Processes for tests that start in milliseconds: forked from a server that has imported the package already."""

import multiprocessing
from multiprocessing.context import ForkServerContext

IMPORTED = ["pytest", "lwexplain.cli", "lwexplain.api", "lwexplain.training.loop", "torch._dynamo"]


def fork_server() -> ForkServerContext:
    """The ``multiprocessing`` context whose server imports once what every test process needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context
