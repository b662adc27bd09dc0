"""Distance-based separability index: how far distances inside a class differ in distribution from those to others.

The Kolmogorov-Smirnov statistic of each class is exact, yet never are all distances in memory: a histogram shows
which of its bins can hold the supremum, and only the distances in these bins are collected in a further pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lwexplain.probes.distances import squared_distance_blocks

EQUAL = 1e-14
"""Squared distances that differ by less than this share of a large one are equal but for rounding."""

SAMPLE_ROWS = 512
"""Samples whose distances give a first look at where all of them lie."""

TAIL = 1e-3
"""Share of the sampled distances left to the first and to the last bin."""

DISTANCES_PER_BIN = 256
FEWEST_BINS, MOST_BINS = 2**8, 2**16

FEWEST_COLLECTED = 2**10
"""Fewest distances held at a time, however little memory there is."""


@dataclass(frozen=True)
class Window:
    """Equal bins over [low, high]; what lies beyond falls into the first or the last of them.

    A window ``within`` bin j of a wider one sees the distances of that bin only. ``below`` are how many distances
    inside the class, and to others, are less than any of the window.
    """

    low: float
    high: float
    bins: int
    within: "tuple[Window, int] | None" = None
    below: tuple[int, int] = (0, 0)

    def place(self, d2: Tensor) -> Tensor:
        """Bin of each squared distance, int64 in [0, bins); ``bins`` for those that the window does not see."""
        scale = self.bins / max(self.high - self.low, 1e-300)
        places = (d2 - self.low).mul_(scale).clamp_(0, self.bins - 1).long()
        if self.within is None:
            return places
        wider, j = self.within
        return places.masked_fill_(wider.place(d2) != j, self.bins)

    def reach(self, first: int, last: int) -> tuple[float, float]:
        """Bounds of what falls into the bins from ``first`` to ``last``, a little generous."""
        width = (self.high - self.low) / self.bins
        low = -math.inf if first == 0 else self.low + (first - 0.01) * width
        return low, math.inf if last == self.bins - 1 else self.low + (last + 1.01) * width

    def zoom(self, j: int, below: tuple[int, int], largest: float) -> "Window":
        """The window over bin ``j`` alone."""
        width = (self.high - self.low) / self.bins
        low = 0.0 if j == 0 and self.within is None else self.low + j * width
        high = largest if j == self.bins - 1 and self.within is None else self.low + (j + 1) * width
        return Window(low, max(low, high), self.bins, (self, j), below)


class Histogram:
    """Pass of the first kind: how many distances ``inside`` a class and ``outside`` it fall into each bin (bins,)."""

    def __init__(self, window: Window, count: int, device: torch.device) -> None:
        self.window = window
        self.inside, self.outside = torch.zeros(2, window.bins + 1, dtype=torch.int64, device=device)
        self.inside[window.place(self.inside.new_zeros(1, dtype=torch.float64))] -= count  # none is a pair with itself

    def add(self, d2: Tensor, own: slice) -> None:
        """Squared distances of samples of the class to all (m, N), of which the columns ``own`` are the class."""
        places = self.window.place(d2)
        inside = self._count(places[:, own])
        self.inside += inside
        self.outside += self._count(places) - inside

    def counts(self) -> Tensor:
        """Inside and outside (2, bins)."""
        return torch.stack([self.inside, self.outside])[:, :-1]

    def _count(self, places: Tensor) -> Tensor:
        return torch.bincount(places.reshape(-1), minlength=self.window.bins + 1)


class Collection:
    """Pass of the second kind: the distances themselves in the ``wanted`` bins (bins,) of a window.

    ``skipped`` (2, bins) is how many distances, inside the class and to others, are below a bin and not collected.
    """

    def __init__(self, window: Window, wanted: Tensor, skipped: Tensor, count: int) -> None:
        self.window, self.skipped = window, skipped
        self.wanted = torch.nn.functional.pad(wanted, (0, 1))  # not what the window does not see
        bins = torch.nonzero(wanted)[:, 0]
        self.reach = window.reach(int(bins[0]), int(bins[-1]))
        zero = window.place(torch.zeros(1, dtype=torch.float64, device=wanted.device))
        self.with_themselves = count if self.wanted[zero] else 0
        self.inside: list[Tensor] = []
        self.outside: list[Tensor] = []

    def add(self, d2: Tensor, own: slice) -> None:
        """Squared distances as for ``Histogram.add``."""
        near = (d2 >= self.reach[0]) & (d2 <= self.reach[1])
        self.inside.append(self._keep_wanted(d2[:, own][near[:, own]]))
        near[:, own] = False
        self.outside.append(self._keep_wanted(d2[near]))

    def _keep_wanted(self, d2: Tensor) -> Tensor:
        return d2[self.wanted[self.window.place(d2)]]

    def difference(self, sizes: tuple[int, int], tolerance: float) -> float:
        """Largest |F_inside - F_outside| at a collected distance; those within ``tolerance`` are one distance."""
        inside, outside = (torch.cat(parts).sort().values for parts in (self.inside, self.outside))
        inside = inside[self.with_themselves :]  # the zeros of each sample with itself
        largest = 0.0
        for at in (inside, outside):
            if len(at):
                skipped, reach = self.skipped[:, self.window.place(at)], at + tolerance
                first = (torch.searchsorted(inside, reach, right=True) + skipped[0]).double() / sizes[0]
                second = (torch.searchsorted(outside, reach, right=True) + skipped[1]).double() / sizes[1]
                largest = max(largest, float((first - second).abs().max()))
        return largest


class ClassStatistic:
    """Kolmogorov-Smirnov statistic of a class of ``count`` among n samples, from as many passes over its distances as
    there are ``passes``, each of which collects ``most`` distances or twice as many."""

    def __init__(self, window: Window, count: int, n: int, most: int, largest: float, device: torch.device) -> None:
        self.value = 0.0
        self.count, self.sizes = count, (count * (count - 1), count * (n - count))
        self.most, self.largest, self.tolerance = most, largest, EQUAL * window.high
        self.passes: list[Histogram | Collection] = [Histogram(window, count, device)]

    def close(self) -> None:
        """All distances of the current pass were added: update the value and plan further passes."""
        done = self.passes.pop(0)
        if isinstance(done, Collection):
            self.value = max(self.value, done.difference(self.sizes, self.tolerance))
            return
        counts = done.counts()
        up_to = counts.cumsum(1) + torch.tensor(done.window.below, device=counts.device)[:, None]
        before = up_to - counts
        sizes = torch.tensor(self.sizes, dtype=torch.float64, device=counts.device)[:, None]
        after, ahead = up_to / sizes, before / sizes
        self.value = max(self.value, float((after[0] - after[1]).abs().max()))
        bound = torch.maximum(after[0] - ahead[1], after[1] - ahead[0])

        held = torch.where(bound > self.value + 1e-15, counts.sum(0), 0)  # in bins where the supremum can be
        for j in torch.nonzero(held > self.most)[:, 0].tolist():
            window = done.window.zoom(j, (int(before[0, j]), int(before[1, j])), self.largest)
            if window.high - window.low > self.tolerance:  # else they are all equal, and the supremum is at an edge
                self.passes.append(Histogram(window, self.count, counts.device))
        held[held > self.most] = 0
        share = held.cumsum(0).sub_(1).clamp_(min=0) // self.most  # which collection a bin goes to, each bounded
        for part in share[held > 0].unique().tolist():
            wanted = (held > 0) & (share == part)
            taken = torch.where(wanted, counts, 0).cumsum(1) - torch.where(wanted, counts, 0)
            self.passes.append(Collection(done.window, wanted, before - taken, self.count))


class DistanceDistributions:
    """Kolmogorov-Smirnov statistics of all classes of ``x`` (N, D) float64, rows sorted by class.

    ``counts`` are the samples of each class. Give every block of ``squared_distance_blocks(x)`` to ``add`` once, in
    order; then ``statistics`` makes what further passes are needed. Takes about ``memory_bytes`` at most.
    """

    def __init__(self, x: Tensor, counts: list[int], memory_bytes: int) -> None:
        self.x, self.counts = x, counts
        n = len(x)
        few = x[:: -(-n // SAMPLE_ROWS)]
        look = torch.cat(
            [d2[torch.triu(torch.ones_like(d2), rows.start + 1) > 0] for rows, d2 in squared_distance_blocks(few)]
        )
        low, high = (float(q) for q in look.quantile(torch.tensor([TAIL, 1 - TAIL], dtype=x.dtype, device=x.device)))
        largest = 4 * float(torch.linalg.vector_norm(x - x.mean(0), dim=1).max()) ** 2
        most = max(FEWEST_COLLECTED, memory_bytes // 128)
        self.classes: list[ClassStatistic | None] = []
        for count in counts:
            bins = min(max(2 ** math.ceil(math.log2(count * n / DISTANCES_PER_BIN)), FEWEST_BINS), MOST_BINS)
            defined = 1 < count < n
            statistic = ClassStatistic(Window(low, high, bins), count, n, most, largest, x.device) if defined else None
            self.classes.append(statistic)

    def add(self, rows: slice, d2: Tensor) -> None:
        """Squared distances ``d2`` (rows, N) of the samples ``rows`` to all."""
        for k, here, own in class_runs(rows, self.counts):
            statistic = self.classes[k]
            if statistic is None or not statistic.passes:
                continue
            statistic.passes[0].add(d2[here], own)
            if own.stop <= rows.stop:
                statistic.close()

    def statistics(self) -> list[float]:
        """Statistic of each class, in [0, 1]; NaN where a class has one sample only, or there is one class."""
        while any(statistic is not None and statistic.passes for statistic in self.classes):
            for rows, d2 in squared_distance_blocks(self.x):
                self.add(rows, d2)
        return [math.nan if statistic is None else statistic.value for statistic in self.classes]


def class_runs(rows: slice, counts: list[int]) -> Iterator[tuple[int, slice, slice]]:
    """The classes with samples among ``rows`` of all samples sorted by class: (class, where in ``rows``, all of it)."""
    stop = 0
    for k, count in enumerate(counts):
        start, stop = stop, stop + count
        if start < rows.stop and stop > rows.start:
            here = slice(max(start, rows.start) - rows.start, min(stop, rows.stop) - rows.start)
            yield k, here, slice(start, stop)
