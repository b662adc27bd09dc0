"""What one pass over all pairwise distances of a split says about its classes, sample by sample."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.base import StageData
from lwexplain.probes.distances import ROUNDING, centre, squared_distance_blocks
from lwexplain.probes.moments import GROUPS
from lwexplain.probes.neighbourhood import NEIGHBOURS, Neighbours, remember
from lwexplain.probes.separability.distance_distributions import DistanceDistributions, class_runs
from lwexplain.probes.splits import as_float64, read_split
from lwexplain.probes.subsample import class_order, pairwise_samples


@dataclass(frozen=True)
class SortedSamples:
    """The samples pairwise distances are taken of, as float64 rows ``x`` (n, D) in ``class_order``.

    ``positions`` (n,) int64 are their places in the split, ``classes`` (K',) int64 the classes they belong to and
    ``counts`` how many samples each of these has, one or more.
    """

    x: Tensor
    positions: np.ndarray
    classes: np.ndarray
    counts: list[int]

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
    """

    k: int
    agreement: Tensor
    purity: Tensor
    silhouette: Tensor
    margin: Tensor
    dsi: list[float]


def sorted_samples(stage: StageData, split: str) -> SortedSamples:
    """The ``pairwise_samples`` of a split, sorted by class and group."""
    samples = pairwise_samples(stage, split)
    features, labels = read_split(stage, split)
    positions = samples[class_order(labels[samples], GROUPS)]
    classes, counts = np.unique(labels[positions], return_counts=True)
    return SortedSamples(as_float64(features[positions], stage.device), positions, classes, counts.tolist())


def pairwise_indices(stage: StageData, split: str, samples: SortedSamples) -> PairwiseIndices:
    """One pass over the distances of ``samples``, which also finds what ``nearest_others`` returns."""
    x, own, counts = samples.x, samples.own, samples.counts
    n, k = len(x), min(NEIGHBOURS, len(x) - 1)
    sizes = torch.tensor(counts, dtype=x.dtype, device=x.device)
    norms = torch.linalg.vector_norm(x - centre(x), dim=1).square()
    distributions = DistanceDistributions(x, counts, stage.memory_bytes // 2)
    agreement, purity, a, b, hit, miss = (torch.empty(n, dtype=x.dtype, device=x.device) for _ in range(6))
    indices = torch.empty(n, k, dtype=torch.int64)
    distances = torch.empty(n, k, dtype=torch.float64)

    for rows, d2 in squared_distance_blocks(x):
        distributions.add(rows, d2)
        mine = own[rows]
        sums = torch.stack([part.sum(1) for part in d2.sqrt().split(counts, 1)], 1)
        a[rows] = sums.gather(1, mine[:, None])[:, 0]
        b[rows] = (sums / sizes).scatter_(1, mine[:, None], torch.inf).amin(1)
        d2.diagonal(rows.start).fill_(torch.inf)
        for _, here, of_class in class_runs(rows, counts):
            hit[rows][here] = d2[here, of_class].amin(1)
            miss[rows][here] = _least(d2[here, : of_class.start], d2[here, of_class.stop :])
        nearest = d2.topk(min(k + 1, n - 1), dim=1, largest=False, sorted=True)
        near = Nearest(d2, nearest.values, mine[:, None] == own[nearest.indices], mine, own, norms[rows])
        agreement[rows], purity[rows] = near.share_of_own(1), near.share_of_own(k)
        indices[rows], distances[rows] = nearest.indices[:, :k].cpu(), nearest.values[:, :k].sqrt().cpu()

    tiny = torch.finfo(x.dtype).tiny
    a /= (sizes[own] - 1).clamp(min=1)
    silhouette = (b - a) / torch.maximum(a, b).clamp(min=tiny)
    hit, miss = hit.sqrt(), miss.sqrt()
    margin = (miss - hit) / (miss + hit).clamp(min=tiny)
    alone = sizes[own] == 1
    silhouette[alone], margin[alone] = 0.0, torch.nan
    remember(stage, split, _unsorted(samples.positions, indices.numpy(), distances.numpy()))
    return PairwiseIndices(k, agreement, purity, silhouette, margin, distributions.statistics())


@dataclass(frozen=True)
class Nearest:
    """The nearest others of a block of m samples: their squared distances ``values`` (m, L), ascending, and whether
    each is of the sample's ``own`` class; ``d2`` (m, n) are all distances, infinite to itself."""

    d2: Tensor
    values: Tensor
    own: Tensor
    mine: Tensor
    labels: Tensor
    norms: Tensor

    def share_of_own(self, k: int) -> Tensor:
        """Share of the own class among the ``k`` nearest (m,); those as far as the k-th share the places left."""
        last = self.values[:, k - 1 : k]
        tolerance = ROUNDING * (self.norms[:, None] + last)
        share = _share(self.values, self.own, last, tolerance, k)
        if self.values.shape[1] < len(self.labels) - 1:  # some of those as far as the k-th may not be listed
            more = torch.nonzero(self.values[:, -1] <= (last + tolerance)[:, 0])[:, 0]
            if len(more):
                own = self.mine[more, None] == self.labels
                share[more] = _share(self.d2[more], own, last[more], tolerance[more], k)
        return share


def _share(values: Tensor, own: Tensor, last: Tensor, tolerance: Tensor, k: int) -> Tensor:
    nearer, level = values < last - tolerance, (values - last).abs() <= tolerance
    places = k - nearer.sum(1)
    return ((own & nearer).sum(1) + places * (own & level).sum(1) / level.sum(1).to(values.dtype)) / k


def _least(*parts: Tensor) -> Tensor:
    """Smallest value in each row (m,) of all ``parts`` (m, any), not all of which are without columns."""
    return torch.stack([part.amin(1) for part in parts if part.shape[1]]).amin(0)


def _unsorted(positions: np.ndarray, indices: np.ndarray, distances: np.ndarray) -> Neighbours:
    """Neighbours in the order of the split instead of sorted by class."""
    order = np.argsort(positions)
    place = np.argsort(order)
    return Neighbours(positions[order], place[indices[order]], distances[order])
