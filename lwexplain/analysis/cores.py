"""Leave a core to the processes that probes have started: threads that share one wait for each other all the time."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lwexplain.probes.hooks import ProbeHooks


class Cores:
    """The threads of this process, one fewer for each probe whose own process ``is_busy()``."""

    def __init__(self, probes: Iterable[Any]) -> None:
        self._probes = [ProbeHooks(probe) for probe in probes]
        self._all = torch.get_num_threads()

    def share(self) -> None:
        """Set the number of threads for what comes next."""
        wanted = max(1, self._all - sum(probe.is_busy() for probe in self._probes))
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)


@contextmanager
def shared_cores(probes: Iterable[Any]) -> Iterator[Cores]:
    """Cores shared with the processes of ``probes``; afterwards the number of threads is as it was."""
    before = torch.get_num_threads()
    try:
        yield Cores(probes)
    finally:
        torch.set_num_threads(before)
