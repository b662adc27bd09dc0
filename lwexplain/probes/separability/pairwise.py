"""What one pass over all pairwise distances of a split says about its classes, sample by sample."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.base import StageData
from lwexplain.probes.distances import ROUNDING, centre, squared_distance_blocks
from lwexplain.probes.jackknife import GROUPS, jackknife_groups
from lwexplain.probes.neighbourhood import NEIGHBOURS, Neighbours, copies_in, remember_neighbours
from lwexplain.probes.separability.distance_distributions import DistanceDistributions, class_runs
from lwexplain.probes.splits import as_float64, read_split
from lwexplain.probes.subsample import class_order, pairwise_samples

LISTED = 3
"""How many times the neighbours asked for are listed, so that enough are left without a group."""


@dataclass(frozen=True)
class SortedSamples:
    """The samples pairwise distances are taken of, as float64 rows ``x`` (n, D) in ``class_order``.

    ``positions`` (n,) int64 are their places in the split, ``classes`` (K',) int64 the classes they belong to and
    ``counts`` how many samples each of these has, one or more; ``group`` (n,) int64 is the jackknife group of each. Of
    samples that are copies of each other one of each label is there: ``copies`` were left out. Those that are left at
    one place have exactly the same row and the same number in ``place`` (n,), and count as one neighbour.
    """

    x: Tensor
    positions: np.ndarray
    classes: np.ndarray
    counts: list[int]
    group: Tensor
    place: Tensor
    copies: int

    @property
    def own(self) -> Tensor:
        """Class of each row (n,) int64, counted among ``classes``."""
        counts = torch.tensor(self.counts, device=self.x.device)
        return torch.repeat_interleave(torch.arange(len(counts), device=self.x.device), counts)


@dataclass(frozen=True)
class PairwiseIndices:
    """Indices of each of n samples, in the order of SortedSamples; ``dsi`` (K',) is of each class.

    - ``agreement``: share of own class among the nearest other samples, those equally near sharing alike, so that
      values do not depend on the order of the samples. Its mean is the separability index, in [0, 1] (Thornton 2002,
      "Truth from trash").
    - ``purity``: the same among the ``k`` nearest; those as far as the k-th share the places that are left.
    - ``silhouette``: (b - a) / max(a, b), in [-1, 1]; a = mean distance to the own class, b = smallest mean distance
      to another class; 0 for the only sample of a class (Rousseeuw 1987).
    - ``margin``: the hypothesis margin (Crammer et al. 2002; Gilad-Bachrach, Navot and Tishby 2004),
      (||x - nearmiss|| - ||x - nearhit||) / 2, divided by the mean of the two distances. So scaled it is the relative
      distance difference of Sato and Yamada (1996), in [-1, 1], which no change of scale from stage to stage
      alters; 0 where both distances are 0, NaN for the only sample of a class.
    - ``dsi``: Kolmogorov-Smirnov statistic between the distances inside the class and those from it to others, in
      [0, 1] (Guan and Loew 2021, "A novel intrinsic measure of data separability"); NaN for one sample.

    These, but for ``dsi``, are (n, 1 + GROUPS): of all samples, and without each jackknife group, NaN for the samples
    in it. ``nearest`` (n,) int64 is the nearest other sample of each.
    """

    k: int
    nearest: Tensor
    agreement: Tensor
    purity: Tensor
    silhouette: Tensor
    margin: Tensor
    dsi: list[float]


def sorted_samples(stage: StageData, split: str) -> SortedSamples:
    """The distinct ones of the ``pairwise_samples`` of a split, sorted by class and group."""
    samples = pairwise_samples(stage, split)
    features, labels = read_split(stage, split)
    copies = copies_in(stage, split).without_collapse(labels[samples])
    chosen = copies.distinct(labels[samples])
    order = class_order(labels[samples[chosen]], GROUPS)
    group = jackknife_groups(labels[samples[chosen]], GROUPS)[order]
    chosen = chosen[order]
    first = copies.first[chosen]
    return SortedSamples(
        as_float64(features[samples[first]], stage.device),
        samples[chosen],
        *_classes(labels[samples[chosen]]),
        torch.from_numpy(group),
        torch.from_numpy(first),
        len(samples) - len(chosen),
    )


def _classes(labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
    classes, counts = np.unique(labels, return_counts=True)
    return classes, counts.tolist()


def pairwise_indices(stage: StageData, split: str, samples: SortedSamples) -> PairwiseIndices:
    """One pass over the distances of ``samples``, which also finds what ``neighbours_of`` returns where no two samples
    are copies."""
    x, own, counts = samples.x, samples.own, samples.counts
    n, k = len(x), min(NEIGHBOURS, len(x) - 1)
    group = samples.group.to(x.device)
    norms = torch.linalg.vector_norm(x - centre(x), dim=1).square()
    distributions = DistanceDistributions(x, counts, stage.memory_bytes // 2)
    silhouettes, weight = Silhouettes(counts, group), _weights(samples)
    agreement, purity, silhouette, margin = (x.new_empty(n, 1 + GROUPS) for _ in range(4))
    indices = torch.empty(n, k, dtype=torch.int64)
    distances = torch.empty(n, k, dtype=torch.float64)

    for rows, d2 in squared_distance_blocks(x):
        distributions.add(rows, d2)
        mine = own[rows]
        silhouette[rows] = silhouettes.of(d2, mine)
        d2.diagonal(rows.start).fill_(torch.inf)
        _part_from_copies(d2, rows, samples.place, weight)
        margin[rows] = _margins(d2, rows, counts, group)
        nearest = d2.topk(min(LISTED * k + 1, n - 1), dim=1, largest=False, sorted=True)
        near = Nearest(d2, nearest.values, nearest.indices, mine, own, norms[rows], group, weight)
        agreement[rows], purity[rows] = near.share_of_own(1), near.share_of_own(k)
        indices[rows], distances[rows] = nearest.indices[:, :k].cpu(), nearest.values[:, :k].sqrt().cpu()

    left_out = torch.nn.functional.pad(group[:, None] == torch.arange(GROUPS, device=x.device), (1, 0))
    for values in (agreement, purity, silhouette, margin):
        values.masked_fill_(left_out, torch.nan)
    if not copies_in(stage, split).extra:
        remember_neighbours(stage, split, _in_order_of_split(samples.positions, indices.numpy(), distances.numpy()))
    return PairwiseIndices(k, indices[:, 0], agreement, purity, silhouette, margin, distributions.statistics())


def nearest_agreement(samples: SortedSamples) -> tuple[Tensor, Tensor]:
    """``agreement`` (n, 1 + GROUPS) and ``nearest`` (n,) of ``PairwiseIndices`` alone, in a fraction of the time."""
    x, own, group = samples.x, samples.own, samples.group.to(samples.x.device)
    norms = torch.linalg.vector_norm(x - centre(x), dim=1).square()
    weight = _weights(samples)
    agreement, nearest = x.new_empty(len(x), 1 + GROUPS), torch.empty(len(x), dtype=torch.int64, device=x.device)
    for rows, d2 in squared_distance_blocks(x):
        d2.diagonal(rows.start).fill_(torch.inf)
        _part_from_copies(d2, rows, samples.place, weight)
        found = d2.topk(min(LISTED + 1, len(x) - 1), dim=1, largest=False, sorted=True)
        near = Nearest(d2, found.values, found.indices, own[rows], own, norms[rows], group, weight)
        agreement[rows], nearest[rows] = near.share_of_own(1), found.indices[:, 0]
    left_out = torch.nn.functional.pad(group[:, None] == torch.arange(GROUPS, device=x.device), (1, 0))
    return agreement.masked_fill_(left_out, torch.nan), nearest


class Silhouettes:
    """Silhouettes of samples from their distances to all, sorted by class and ``group``."""

    def __init__(self, counts: list[int], group: Tensor) -> None:
        sizes = torch.tensor(counts, device=group.device)
        own = torch.repeat_interleave(torch.arange(len(counts), device=group.device), sizes)
        in_cell = torch.bincount(own * GROUPS + group, minlength=len(counts) * GROUPS)
        self.ends = in_cell.cumsum(0)
        cells = in_cell.view(len(counts), GROUPS).double()
        self.sizes = torch.cat([cells.sum(1, keepdim=True), cells.sum(1, keepdim=True) - cells], 1)  # (K', 1 + GROUPS)

    def of(self, d2: Tensor, mine: Tensor) -> Tensor:
        """Of samples of the classes ``mine`` (m,) with squared distances ``d2`` (m, n): (m, 1 + GROUPS)."""
        up_to = torch.nn.functional.pad(d2.sqrt().cumsum(1), (1, 0))[:, self.ends]
        cells = torch.diff(up_to, dim=1, prepend=torch.zeros_like(up_to[:, :1])).view(len(d2), -1, GROUPS)
        whole = cells.sum(2, keepdim=True)
        sums = torch.cat([whole, whole - cells], 2).clamp_(min=0)
        at = mine[:, None, None].expand(-1, 1, 1 + GROUPS)
        others = self.sizes[mine] - 1
        a = sums.gather(1, at)[:, 0] / others.clamp(min=1)
        means = torch.where(self.sizes > 0, sums / self.sizes, torch.inf)
        b = means.scatter_(1, at, torch.inf).amin(1)
        silhouette = (b - a) / torch.maximum(a, b).clamp(min=torch.finfo(a.dtype).tiny)
        return torch.where(others > 0, silhouette, 0.0)


def _margins(d2: Tensor, rows: slice, counts: list[int], group: Tensor) -> Tensor:
    """Hypothesis margins (m, 1 + GROUPS) from squared distances ``d2`` (m, n), infinite to the sample itself."""
    hit, miss = (d2.new_full((len(d2), GROUPS), torch.inf) for _ in range(2))  # the nearest of each group
    for _, here, of_class in class_runs(rows, counts):
        for nearest, columns in ((hit, of_class), (miss, slice(0, of_class.start)), (miss, slice(of_class.stop, None))):
            part = d2[here, columns]
            nearest[here] = nearest[here].scatter_reduce(1, group[columns].expand(len(part), -1), part, "amin")
    hit, miss = _least_without_each(hit).sqrt(), _least_without_each(miss).sqrt()
    margin = (miss - hit) / (miss + hit).clamp(min=torch.finfo(hit.dtype).tiny)
    return torch.where(hit.isinf() | miss.isinf(), torch.nan, margin)


def _least_without_each(values: Tensor) -> Tensor:
    """The smallest of each row of ``values`` (m, GROUPS), and the smallest without each one: (m, 1 + GROUPS)."""
    least = values.topk(2, dim=1, largest=False, sorted=True)
    first, second = least.values.split(1, 1)
    at = torch.arange(GROUPS, device=values.device)
    return torch.cat([first, torch.where(least.indices[:, :1] == at, second, first)], 1)


def _weights(samples: SortedSamples) -> Tensor | None:
    """How much of a neighbour each sample is (n,), where several labels share one place; None where none do."""
    _, inverse, together = torch.unique(samples.place, return_inverse=True, return_counts=True)
    return (1 / together[inverse].to(samples.x)) if bool((together > 1).any()) else None


def _part_from_copies(d2: Tensor, rows: slice, place: Tensor, weight: Tensor | None) -> None:
    """Make the distances of samples ``rows`` to others at the same place infinite: a copy is no neighbour."""
    if weight is None:
        return
    shared = torch.nonzero(weight < 1)[:, 0]
    here = shared[(shared >= rows.start) & (shared < rows.stop)]
    place = place.to(d2.device)
    row, column = torch.nonzero(place[here, None] == place[shared], as_tuple=True)
    d2[here[row] - rows.start, shared[column]] = torch.inf


@dataclass(frozen=True)
class Nearest:
    """The nearest others of a block of m samples: squared distances ``values`` (m, L), ascending, of ``indices``.

    ``d2`` (m, n) are all distances, infinite to itself and to copies; ``mine`` (m,) are the classes of the samples and
    ``labels`` (n,) those of all, with their jackknife ``group`` and ``weight`` (n,), which is 1 where it is None.
    """

    d2: Tensor
    values: Tensor
    indices: Tensor
    mine: Tensor
    labels: Tensor
    norms: Tensor
    group: Tensor
    weight: Tensor | None

    def share_of_own(self, k: int) -> Tensor:
        """Share of the own class among the ``k`` nearest (m, 1 + GROUPS), of all and without each group.

        Those as far as the k-th share the places left.
        """
        listed, total = self.values.shape[1], len(self.labels) - 1
        share = self.values.new_empty(len(self.mine), 1 + GROUPS)
        lacking = torch.arange(len(self.mine), device=self.mine.device)
        for length in (min(listed, LISTED * k + 1), listed, total):
            if length > listed:  # of some, others may be as near as the last that is listed
                values, indices = self.d2[lacking].topk(length, dim=1, largest=False, sorted=True)
            else:
                values, indices = self.values[lacking, :length], self.indices[lacking, :length]
            share[lacking], complete = self._share(lacking, values, indices, k)
            lacking = lacking[~complete.all(1)]
            if not len(lacking):
                break
        return share

    def _share(self, rows: Tensor, values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Shares (r, 1 + GROUPS) of some ``rows`` from their nearest (r, L), and whether these are enough."""
        without = torch.arange(-1, GROUPS, device=values.device)
        weight = values.isfinite().to(values.dtype)
        if self.weight is not None:
            weight = weight * self.weight[indices]
        counts = weight[..., None] * (self.group[indices][..., None] != without)  # (r, L, 1 + GROUPS)
        reached = counts.cumsum(1) >= k - 1e-9
        enough = reached[:, -1]
        last = values.gather(1, reached.to(torch.int8).argmax(1))  # the k-th that counts
        last = torch.where(enough, last, values.masked_fill(values.isinf(), 0.0).amax(1, keepdim=True))
        tolerance = ROUNDING * (self.norms[rows, None] + last)
        own = (self.labels[indices] == self.mine[rows, None])[..., None]
        nearer = counts * (values[..., None] < (last - tolerance)[:, None])
        level = counts * ((values[..., None] - last[:, None]).abs() <= tolerance[:, None])
        total = (nearer + level).sum(1).clamp(max=k)  # below k where there are not so many others
        places = total - nearer.sum(1)
        share = ((nearer * own).sum(1) + places * (level * own).sum(1) / level.sum(1)) / total
        whole = values.shape[1] == len(self.labels) - 1
        return share, whole | (enough & (values[:, -1:] > last + tolerance))


def _in_order_of_split(positions: np.ndarray, indices: np.ndarray, distances: np.ndarray) -> Neighbours:
    """Neighbours in the order of the split instead of sorted by class."""
    order = np.argsort(positions)
    place = np.argsort(order)
    return Neighbours(positions[order], place[indices[order]], distances[order])
