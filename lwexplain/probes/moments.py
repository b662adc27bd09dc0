"""Class means and scatter of a stage's features, streamed in blocks: what most indices are made of.

The samples are also dealt into ``GROUPS`` groups. Moments without one group follow from the moments of all, so an
index gets its interval by the delete-a-group jackknife at no further pass over the features.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.base import StageData
from lwexplain.probes.jackknife import GROUPS, jackknife_groups
from lwexplain.probes.splits import feature_blocks, float64_device, read_split
from lwexplain.processes import World

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ClassMoments:
    """Moments of features (N, D) with labels in K' classes that have samples; everything float64.

    ``classes`` (K',) int64 their numbers, ``counts`` (K',) samples, ``means`` (K', D), ``within`` (D, D) the sum over
    samples of (x - mean of its class)(x - mean of its class)^T, not divided by N.
    """

    classes: np.ndarray
    counts: Tensor
    means: Tensor
    within: Tensor

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> Tensor:
        """Mean of all samples (D,)."""
        return self.counts @ self.means / self.counts.sum()

    @property
    def centred_means(self) -> Tensor:
        """Class means less the mean of all samples, each times the root of its count (K', D): C^T C = between."""
        return self.counts.sqrt()[:, None] * (self.means - self.mean)

    @property
    def between(self) -> Tensor:
        """Sum over samples of (mean of its class - mean of all)(...)^T, (D, D)."""
        return self.centred_means.T @ self.centred_means

    @property
    def total(self) -> Tensor:
        """Scatter about the mean of all samples (D, D): within + between."""
        return self.within + self.between


@dataclass(frozen=True)
class Moments:
    """The moments of all samples, and what is needed to take one group out of them.

    ``group_counts`` (G, K'), ``group_sums`` (G, K', D) of deviations from the class mean, ``group_scatter``
    (G, D, D) of the same; empty (G = 0) where memory did not allow groups, which ``note`` then says.
    """

    whole: ClassMoments
    group_counts: Tensor
    group_sums: Tensor
    group_scatter: Tensor
    note: str = field(default="")

    def all_but_one(self) -> Iterator[ClassMoments]:
        """The moments without each group in turn; a class that loses its last sample is left out."""
        parts = zip(self.group_counts, self.group_sums, self.group_scatter, strict=True)
        for taken, sums, scatter in parts:
            left = self.whole.counts - taken
            kept = left > 0
            shift = -sums[kept] / left[kept, None]  # new class mean less the old one
            moved = left[kept].sqrt()[:, None] * shift
            yield ClassMoments(
                self.whole.classes[kept.cpu().numpy()],
                left[kept],
                self.whole.means[kept] + shift,
                self.whole.within - scatter - moved.T @ moved - _gone(sums[~kept], taken[~kept]),
            )


def _gone(sums: Tensor, counts: Tensor) -> Tensor:
    """What classes that vanish with a group would leave behind: their scatter is all in the group, their sums are 0."""
    scaled = sums / counts.clamp(min=1).sqrt()[:, None]
    return scaled.T @ scaled


def moments_of(stage: StageData, split: str) -> Moments:
    """The moments of a split of a stage, computed once and remembered in ``stage.memo``."""
    if (known := _remembered(stage, split)) is not None:
        return known
    return _remember(stage, split, compute_moments(stage, split))


def share_moments(stages: Sequence[StageData], world: World) -> None:
    """Compute and remember the moments of all ``stages`` and splits together: each process passes over its rows."""
    for stage in stages:
        for split in stage.features:
            if _remembered(stage, split) is None:
                n = len(stage.labels[split])
                rows = slice(n * world.rank // world.size, n * (world.rank + 1) // world.size)
                _remember(stage, split, compute_moments(stage, split, rows=rows, reduce=world.total))


def _remembered(stage: StageData, split: str) -> Moments | None:
    return stage.memo.get(_key(split))


def _remember(stage: StageData, split: str, moments: Moments) -> Moments:
    stage.memo[_key(split)] = moments
    return moments


def _key(split: str) -> str:
    return f"moments:{split}"


def compute_moments(
    stage: StageData, split: str, *, rows: slice = slice(None), reduce: Reduce = lambda part: part
) -> Moments:
    """Compute the moments in two passes over blocks of the features (class means, then scatter about them).

    With several processes each takes its own ``rows`` and ``reduce`` adds up the tensors of all. Samples belong
    to the groups of ``jackknife_groups``. Raises ProbeError as ``read_split`` does.
    """
    features, labels = read_split(stage, split)
    classes = np.unique(labels)
    own = np.searchsorted(classes, labels)
    k, d, device = len(classes), features.shape[1], float64_device(stage.device)
    groups = GROUPS if GROUPS * d * d * 8 <= stage.memory_bytes // 2 else 0
    group = jackknife_groups(own, max(groups, 1))
    part, part_own, part_group = features[rows], torch.from_numpy(own[rows]), torch.from_numpy(group[rows])
    counts = torch.from_numpy(np.bincount(own, minlength=k)).double().to(device)

    sums = torch.zeros(k, d, dtype=torch.float64, device=device)
    for at, block in feature_blocks(part):
        sums.index_add_(0, part_own[at].to(device), torch.from_numpy(block).to(device).double())
    means = reduce(sums).to(device) / counts[:, None]

    group_sums = torch.zeros(max(groups, 1) * k, d, dtype=torch.float64, device=device)
    scatter = torch.zeros(max(groups, 1), d, d, dtype=torch.float64, device=device)
    for at, block in feature_blocks(part):
        of_class, of_group = part_own[at].to(device), part_group[at].to(device)
        deviations = torch.from_numpy(block).to(device).double() - means[of_class]
        group_sums.index_add_(0, of_group * k + of_class, deviations)
        for g in range(len(scatter)):
            mine = deviations[of_group == g]
            scatter[g].addmm_(mine.T, mine)
    group_sums, scatter = reduce(group_sums).to(device), reduce(scatter).to(device)
    whole = ClassMoments(classes, counts, means, scatter.sum(0))
    if not groups:
        none = torch.zeros(0, dtype=torch.float64, device=device)
        note = f"no interval: {d} features are too many for the jackknife within the memory limit"
        return Moments(whole, none.reshape(0, k), none.reshape(0, k, d), none.reshape(0, d, d), note)
    group_counts = torch.from_numpy(np.bincount(group * k + own, minlength=groups * k)).double().to(device)
    return Moments(whole, group_counts.reshape(groups, k), group_sums.reshape(groups, k, d), scatter)
