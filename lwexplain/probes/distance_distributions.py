"""Distance-based separability index: how far distances inside a class differ in distribution from those to others.

The Kolmogorov-Smirnov statistic of each class is exact, yet never are all distances in memory: a histogram shows
which of its bins can hold the supremum, and only the distances in these bins are collected in a further pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lwexplain.probes.distances import squared_distance_blocks

EQUAL = 1e-14  # squared distances that differ by less than this share of a large one are equal but for rounding
SAMPLE_ROWS = 512  # a first look at where the distances lie
TAIL = 1e-3  # share of the sampled distances left to the first and to the last bin
DISTANCES_PER_BIN = 256
FEWEST_BINS, MOST_BINS = 2**8, 2**16
FEWEST_COLLECTED = 2**10  # distances, however little memory there is


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

    def select(self, d2: Tensor) -> Tensor:
        """Those of the squared distances ``d2`` that the window sees (M,)."""
        if self.within is None:
            return d2.reshape(-1)
        wider, j = self.within
        seen = wider.select(d2)
        return seen[wider.bin_of(seen) == j]

    def bin_of(self, d2: Tensor) -> Tensor:
        """Bin of each of ``d2``, int64 in [0, bins)."""
        scale = self.bins / max(self.high - self.low, 1e-300)
        return (d2 - self.low).mul_(scale).clamp_(0, self.bins - 1).long()

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


@dataclass
class Histogram:
    """Pass of the first kind: distances per bin of a window."""

    window: Window
    inside: Tensor  # (bins,) int64
    outside: Tensor

    @classmethod
    def empty(cls, window: Window, device: torch.device) -> "Histogram":
        inside, outside = torch.zeros(2, window.bins, dtype=torch.int64, device=device)
        return cls(window, inside, outside)

    def add(self, inside: Tensor, outside: list[Tensor]) -> None:
        self.inside += self._counted(inside)
        self.outside += self._counted(*outside)

    def _counted(self, *parts: Tensor) -> Tensor:
        bins = [self.window.bin_of(self.window.select(part)) for part in parts]
        return torch.bincount(torch.cat(bins), minlength=self.window.bins)


@dataclass
class Collection:
    """Pass of the second kind: the distances themselves in the ``wanted`` bins (bins,) of a window.

    ``skipped`` (2, bins) is how many distances, inside the class and to others, are below a bin and not collected.
    ``reach`` bounds the squared distances in these bins from both sides.
    """

    window: Window
    wanted: Tensor
    skipped: Tensor
    reach: tuple[float, float]
    inside: list[Tensor] = field(default_factory=list)
    outside: list[Tensor] = field(default_factory=list)

    @classmethod
    def planned(cls, window: Window, wanted: Tensor, skipped: Tensor) -> "Collection":
        bins = torch.nonzero(wanted)[:, 0]
        return cls(window, wanted, skipped, window.reach(int(bins[0]), int(bins[-1])))

    def add(self, inside: Tensor, outside: list[Tensor]) -> None:
        self.inside.append(self._wanted(inside))
        self.outside.extend(self._wanted(part) for part in outside)

    def _wanted(self, d2: Tensor) -> Tensor:
        seen = self.window.select(d2[(d2 >= self.reach[0]) & (d2 <= self.reach[1])])
        return seen[self.wanted[self.window.bin_of(seen)]]

    def difference(self, sizes: tuple[int, int], tolerance: float) -> float:
        """Largest |F_inside - F_outside| at a collected distance; those within ``tolerance`` are one distance."""
        inside, outside = (torch.cat(parts).sort().values for parts in (self.inside, self.outside))
        largest = 0.0
        for at in (inside, outside):
            if len(at):
                skipped, reach = self.skipped[:, self.window.bin_of(at)], at + tolerance
                first = (torch.searchsorted(inside, reach, right=True) + skipped[0]).double() / sizes[0]
                second = (torch.searchsorted(outside, reach, right=True) + skipped[1]).double() / sizes[1]
                largest = max(largest, float((first - second).abs().max()))
        return largest


class ClassStatistic:
    """Kolmogorov-Smirnov statistic of one class, from as many passes over its distances as it has ``passes``."""

    def __init__(self, window: Window, sizes: tuple[int, int], most: int, largest: float, device: torch.device) -> None:
        self.value = 0.0
        self.sizes, self.most, self.largest = sizes, most, largest
        self.tolerance = EQUAL * window.high
        self.passes: list[Histogram | Collection] = [Histogram.empty(window, device)]

    def add(self, inside: Tensor, outside: list[Tensor]) -> None:
        """Squared distances of the current pass."""
        if self.passes:
            self.passes[0].add(inside, outside)

    def close(self) -> None:
        """All distances of the current pass were added: update the value and plan further passes."""
        if not self.passes:
            return
        done = self.passes.pop(0)
        if isinstance(done, Collection):
            self.value = max(self.value, done.difference(self.sizes, self.tolerance))
            return
        counts = torch.stack([done.inside, done.outside])
        below = torch.tensor(done.window.below, device=counts.device)[:, None]
        up_to = counts.cumsum(1) + below
        before = up_to - counts
        sizes = torch.tensor(self.sizes, dtype=torch.float64, device=counts.device)[:, None]
        after, ahead = up_to / sizes, before / sizes
        self.value = max(self.value, float((after[0] - after[1]).abs().max()))
        bound = torch.maximum(after[0] - ahead[1], after[1] - ahead[0])
        possible = (bound > self.value + 1e-15) & (counts.sum(0) > 0)

        held = torch.where(possible, counts.sum(0), 0)
        for j in torch.nonzero(held > self.most)[:, 0].tolist():
            window = done.window.zoom(j, (int(before[0, j]), int(before[1, j])), self.largest)
            if window.high - window.low > self.tolerance:  # else they are all equal, and the supremum is at an edge
                self.passes.append(Histogram.empty(window, counts.device))
        held[held > self.most] = 0
        share = held.cumsum(0).sub_(1).clamp_(min=0) // self.most  # which collection a bin goes to, each bounded
        for part in share[held > 0].unique().tolist():
            wanted = (held > 0) & (share == part)
            taken = torch.where(wanted, counts, 0).cumsum(1) - torch.where(wanted, counts, 0)
            self.passes.append(Collection.planned(done.window, wanted, before - taken))


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
            sizes = (count * (count - 1), count * (n - count))
            window = Window(low, high, bins)
            self.classes.append(ClassStatistic(window, sizes, most, largest, x.device) if min(sizes) > 0 else None)

    def add(self, rows: slice, d2: Tensor) -> None:
        """Squared distances ``d2`` (rows, N) of the samples ``rows`` to all."""
        for (start, stop), statistic in zip(self._places(), self.classes, strict=True):
            first, last = max(start, rows.start), min(stop, rows.stop)
            if first >= last or statistic is None or not statistic.passes:
                continue
            mine = d2[first - rows.start : last - rows.start]
            others = torch.ones(len(mine), stop - start, dtype=torch.bool, device=d2.device)
            others.diagonal(first - start).fill_(False)
            statistic.add(mine[:, start:stop][others], [mine[:, :start], mine[:, stop:]])
            if last == stop:
                statistic.close()

    def statistics(self) -> list[float]:
        """Statistic of each class, in [0, 1]; NaN where a class has one sample only, or there is one class."""
        while any(statistic is not None and statistic.passes for statistic in self.classes):
            for rows, d2 in squared_distance_blocks(self.x):
                self.add(rows, d2)
        return [math.nan if statistic is None else statistic.value for statistic in self.classes]

    def _places(self) -> Iterator[tuple[int, int]]:
        start = 0
        for count in self.counts:
            yield start, start + count
            start += count
