"""Classifiers that fit nothing: the nearest training samples, and the nearest class mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import accuracies_of
from lwexplain.probes.base import PROBES, Measurement, ProbeDefaults, StageData
from lwexplain.probes.copies import copies_among
from lwexplain.probes.distances import squared_distance_blocks
from lwexplain.probes.metrics import accuracy as declared
from lwexplain.probes.moments import moments_of
from lwexplain.probes.neighbourhood import copies_note
from lwexplain.probes.splits import as_float64, feature_blocks, read_split, splits_of

GRID = (1, 5, 10, 20, 50)

REFERENCE_ROWS = 16384
"""Training samples compared at a time."""


@PROBES.register("knn")
class NearestNeighbours(ProbeDefaults):
    """Accuracy of the vote of the k nearest training samples, k chosen on val (ties: the smaller k).

    Rows ``knn_accuracy`` for val and test and for each class of both, in [0, 1] with Wilson intervals, Euclidean
    distance on the features as they are. A tied vote goes to the class of the nearest sample among the tied (Cover and
    Hart 1967); of samples equally far as the k-th, any may vote. Copies in train vote once, and not on a sample that is
    itself a copy of them, whose label they would give away (``Voters``); the note says how many there are.
    """

    name = "knn"
    order = 60
    metrics = declared.NEAREST_NEIGHBOURS

    def __init__(self, grid: Sequence[int] = GRID) -> None:
        self.grid = tuple(sorted(grid))
        if not self.grid or self.grid[0] < 1:
            raise ProbeError(f"knn: the grid of k is {tuple(grid)}; expected whole numbers from 1")

    def measure(self, stage: StageData) -> list[Measurement]:
        read_split(stage, "train")
        voters = Voters.of(stage, "val")
        grid = [k for k in self.grid if k <= voters.most]
        if not grid:
            distinct = "; copies count once" if voters.notes else ""
            raise ProbeError(
                f"stage {stage.name!r}: train has {voters.most} samples, fewer than k = {self.grid[0]}{distinct}"
            )
        _, labels = read_split(stage, "val")
        found = nearest_labels(stage, "val", grid[-1], voters)
        votes = [majority(found[:, :k], len(stage.classes)).numpy() for k in grid]
        shares = [float(np.mean(predicted == labels)) for predicted in votes]
        best = max(range(len(grid)), key=lambda at: shares[at])
        by_k = ", ".join(f"{k}: {share:.4f}" for k, share in zip(grid, shares, strict=True))
        note = f"k={grid[best]}, chosen on val ({by_k})"
        of_val = "; ".join([note, *voters.notes])
        rows = accuracies_of("knn_accuracy", votes[best], labels, "val", stage.classes, of_val)
        if "test" in stage.features:
            _, labels = read_split(stage, "test")
            voters = Voters.of(stage, "test")
            predicted = majority(nearest_labels(stage, "test", grid[best], voters), len(stage.classes)).numpy()
            of_test = "; ".join([note, *voters.notes])
            rows += accuracies_of("knn_accuracy", predicted, labels, "test", stage.classes, of_test)
        return rows


@PROBES.register("ncm")
class NearestClassMean(ProbeDefaults):
    """Accuracy of giving each sample the class whose training mean is nearest (Euclidean).

    Rows ``ncm_accuracy`` for val and test and for each class of both, in [0, 1] with Wilson intervals (Mensink et al.
    2013). A class without training samples is never predicted.
    """

    name = "ncm"
    order = 70
    metrics = declared.NEAREST_CLASS_MEAN

    def measure(self, stage: StageData) -> list[Measurement]:
        moments = moments_of(stage, "train").whole
        rows: list[Measurement] = []
        for split in splits_of(stage, ("val", "test")):
            features, labels = read_split(stage, split)
            nearest = np.empty(len(labels), dtype=np.int64)
            for at, block in feature_blocks(features):
                distances = squared_distance_blocks(as_float64(block, stage.device), moments.means)
                nearest[at] = torch.cat([d2.argmin(1) for _, d2 in distances]).cpu().numpy()
            rows += accuracies_of("ncm_accuracy", moments.classes[nearest], labels, split, stage.classes)
        return rows


@dataclass(frozen=True)
class Voters:
    """The training samples that vote on the samples of a split: one of each that stands in train more than once.

    ``labels`` (N,) int64 are those of the training samples, -1 for the ones that do not vote; copies of different
    labels vote for the most frequent one (of several, the smallest). ``itself`` (M,) int64 is the voter that a sample
    of the split is a copy of, which does not vote on it, -1 where there is none. ``most`` may vote on any sample.
    """

    labels: np.ndarray
    itself: np.ndarray
    most: int
    notes: list[str]

    @classmethod
    def of(cls, stage: StageData, split: str) -> "Voters":
        """Copies as ``copies_among`` finds them, without places that train and the split have collapsed to."""
        train, labels = read_split(stage, "train")
        features, own = read_split(stage, split)
        n = len(train)
        copies = copies_among(train, features).without_collapse(np.concatenate([labels, own]))
        place = copies.first
        voting = labels.copy()
        voting[place[:n] != np.arange(n)] = -1
        for first in np.unique(place[:n][voting < 0]):
            voting[first] = np.bincount(labels[place[:n] == first]).argmax()
        itself = np.where(place[n:] < n, place[n:], -1)
        extra, known = int((voting < 0).sum()), int((itself >= 0).sum())
        notes = []
        if known:
            notes.append(
                f"{known:,} of {len(own):,} {split} samples are copies of train samples, which did not vote on them"
            )
        if extra:
            notes.append(f"train: {copies_note(extra, n)}")
        return cls(voting, itself, n - extra - (known > 0), notes)


def nearest_labels(stage: StageData, split: str, k: int, voters: Voters | None = None) -> Tensor:
    """Labels (N, k) of the ``k`` voters nearest to each sample of ``split``, nearest first, on the CPU.

    Both sides are read in blocks, so that memory stays within ``memory_bytes`` however many samples there are.
    """
    voters = voters or Voters.of(stage, split)
    train, _ = read_split(stage, "train")
    features, _ = read_split(stage, split)
    asked = k + bool((voters.itself >= 0).any())  # one more than needed, where one of them may be a copy
    fitting = max(1, stage.memory_bytes // 8 // (8 * (train.shape[1] + 2 * asked)))
    parts = []
    for where, queries in feature_blocks(features, fitting):
        x = as_float64(queries, stage.device)
        distances = x.new_full((len(x), asked), torch.inf)
        nearest = torch.zeros_like(distances, dtype=torch.int64)
        for at, reference in feature_blocks(train, min(fitting, REFERENCE_ROWS)):
            voting = np.flatnonzero(voters.labels[at] >= 0)
            if not len(voting):
                continue
            own = torch.from_numpy(voting + at.start).to(x.device)
            for rows, d2 in squared_distance_blocks(x, as_float64(reference[voting], stage.device)):
                near, columns = smallest(d2, min(asked, len(own)))
                both = torch.cat([distances[rows], near], 1)
                distances[rows], order = both.topk(asked, dim=1, largest=False, sorted=True)
                nearest[rows] = torch.cat([nearest[rows], own[columns]], 1).gather(1, order)
        parts.append(_without_itself(nearest.cpu(), torch.from_numpy(voters.itself[where]), k))
    return torch.from_numpy(voters.labels)[torch.cat(parts)]


def _without_itself(nearest: Tensor, itself: Tensor, k: int) -> Tensor:
    """The first ``k`` of each row of ``nearest`` (N, L) that are not the one in ``itself`` (N,)."""
    last = (nearest == itself[:, None]).to(torch.int8).argsort(dim=1, stable=True)  # moves it behind the others
    return nearest.gather(1, last)[:, :k]


def smallest(d2: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` smallest entries of each row of ``d2`` (N, M), smallest first, and their columns.

    They all lie in those k groups of columns whose minima are smallest, so that only these need be sorted.
    """
    n, m = d2.shape
    size = math.isqrt(m // k)
    groups = m // size
    if groups <= k:
        return d2.topk(k, dim=1, largest=False, sorted=True)
    minima = d2[:, : size * groups].unflatten(1, (size, groups)).amin(1)
    chosen = minima.topk(k, dim=1, largest=False, sorted=False).indices
    starts = torch.arange(0, size * groups, groups, device=d2.device)
    columns = (starts[:, None] + chosen[:, None, :]).view(n, -1)
    rest = torch.arange(size * groups, m, device=d2.device).expand(n, -1)
    columns = torch.cat([columns, rest], 1)
    values, order = d2.gather(1, columns).topk(k, dim=1, largest=False, sorted=True)
    return values, columns.gather(1, order)


def majority(labels: Tensor, classes: int) -> Tensor:
    """Most frequent label per row of ``labels`` (N, k), nearest first; ties go to the label that comes first."""
    votes = torch.zeros(len(labels), classes, dtype=torch.int64)
    votes.scatter_add_(1, labels, torch.ones_like(labels))
    first = votes.gather(1, labels).argmax(1, keepdim=True)  # argmax takes the first of equals
    return labels.gather(1, first)[:, 0]
