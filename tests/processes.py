"""Processes for tests that start in milliseconds: forked from a server that has imported the package already."""

import contextlib
import multiprocessing
import os
import socket
import traceback
from datetime import timedelta

import torch.distributed as dist

IMPORTED = [
    "pytest",
    "lwexplain.cli",
    "lwexplain.api",
    "lwexplain.training.loop",
    "lwexplain.analysis.analyze_run",
    "torch._dynamo",
]


def fork_server():
    """The ``multiprocessing`` context whose server imports once what every test process needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def serve(rank, port, connection):
    """Join the other process, then run what is sent and send back what it returns or raises."""
    os.environ |= as_torchrun(rank, port)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    with contextlib.suppress(EOFError):
        while True:
            function, *arguments = connection.recv()
            try:
                connection.send((function(*arguments), None))
            except Exception:
                connection.send((None, traceback.format_exc()))


def as_torchrun(rank, port):
    """The environment in which ``torchrun`` starts a process."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return address | {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Pair:
    """Two processes of one world."""

    def __init__(self):
        context, port = fork_server(), free_port()
        pipes = [context.Pipe() for _ in range(2)]
        self.connections = [ours for ours, _ in pipes]
        self.processes = [
            context.Process(target=serve, args=(rank, port, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()

    def __call__(self, function, *arguments):
        """What ``function(*arguments)`` returns in each process."""
        for connection in self.connections:
            connection.send((function, *arguments))
        answers = [connection.recv() for connection in self.connections]
        assert not any(error for _, error in answers), "\n".join(str(error) for _, error in answers)
        return [answer for answer, _ in answers]

    def end(self):
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(10)
            process.kill()
