"""How long a network takes for one image: measured so that two measurements agree although the machine is busy.

Networks take turns, in rounds, so that a busy moment hits all alike; then only the quicker half of the rounds counts.
On a CPU everything runs in one thread, whatever the process has: how many cores are free differs between an analysis,
beside which other processes run, and an export, and small networks gain nothing from more. The clock is that thread's
own, which stands still while other processes have its core.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

SECONDS = 0.15
"""Time spent on each network."""

ROUNDS = (10, 200)
WARM_UP = 3

AGREEMENT = 0.05
"""Share by which two measurements of one network may differ when they are made at different times: what stands in the
memory around a network differs, too. Figures are shown to two digits for that reason."""


@dataclass(frozen=True)
class Latency:
    """Seconds of one image alone: ``median``, 5th (``low``) and 95th percentile (``high``) of the ``runs`` in the
    quicker half of the rounds; ``noise`` is half the 95 % interval of the median, or 2.5 % of it where that is more."""

    median: float
    low: float
    high: float
    noise: float
    runs: int

    @classmethod
    def of(cls, seconds: np.ndarray) -> "Latency":
        """From single runs (R,) of a network."""
        low, median, high = np.quantile(seconds, [0.05, 0.5, 0.95])
        return cls(float(median), float(low), float(high), _noise(np.sort(seconds), float(median)), len(seconds))

    def is_alike(self, other: "Latency") -> bool:
        """Whether the clock cannot tell the two medians apart."""
        return abs(self.median - other.median) <= self.noise + other.noise


def measure_latencies(runs: Sequence[Callable[[], object]], device: torch.device) -> list[Latency]:
    """The latency of each of ``runs``, which do the same work at every call."""

    clock = time.thread_time if device.type == "cpu" else time.perf_counter

    def seconds_of(run: Callable[[], object]) -> float:
        start = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    least, most = ROUNDS
    rounds: list[list[float]] = []
    order = list(range(len(runs)))
    with _one_thread():
        for _ in range(WARM_UP):
            for run in runs:
                seconds_of(run)
        end = time.perf_counter() + SECONDS * len(runs)
        while len(rounds) < least or (len(rounds) < most and time.perf_counter() < end):
            found = {place: seconds_of(runs[place]) for place in order}
            rounds.append([found[place] for place in range(len(runs))])
            order.reverse()  # no network always runs after the same one
    return [Latency.of(seconds) for seconds in quicker_half(np.array(rounds)).T]


def quicker_half(rounds: np.ndarray) -> np.ndarray:
    """The half of ``rounds`` (R, networks) that took least time in all: those in which the machine was least busy."""
    quickest = np.argsort(rounds.sum(1), kind="stable")[: max(1, (len(rounds) + 1) // 2)]
    return rounds[np.sort(quickest)]


def _noise(ordered: np.ndarray, median: float) -> float:
    """From the order statistics that hold the median in 95 of 100 samples (normal approximation of the binomial)."""
    count = len(ordered)
    reach = 0.98 * np.sqrt(count)
    first = max(0, int(np.floor(count / 2 - reach)))
    last = min(count - 1, int(np.ceil(count / 2 + reach)))
    return float(max((ordered[last] - ordered[first]) / 2, median * AGREEMENT / 2))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
