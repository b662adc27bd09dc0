"""Classifiers that fit nothing: the nearest training samples, and the nearest class mean."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import accuracies_of
from lwexplain.probes.base import PROBES, Measurement, StageData
from lwexplain.probes.distances import squared_distance_blocks
from lwexplain.probes.moments import moments_of
from lwexplain.probes.splits import as_float64, feature_blocks, float64_device, read_split, splits_of

GRID = (1, 5, 10, 20, 50)
REFERENCE_ROWS = 16384  # training samples compared at a time


@PROBES.register("knn")
class NearestNeighbours:
    """Accuracy of the vote of the k nearest training samples, k chosen on val (ties: the smaller k).

    Rows ``knn_accuracy`` for val and test and for each class of both, in [0, 1] with Wilson intervals, Euclidean
    distance on the features as they are. A tied vote goes to the class of the nearest sample among the tied (Cover and
    Hart 1967); of samples equally far as the k-th, any may vote.
    """

    name = "knn"

    def __init__(self, grid: Sequence[int] = GRID) -> None:
        self.grid = tuple(sorted(grid))
        if not self.grid or self.grid[0] < 1:
            raise ProbeError(f"knn: the grid of k is {tuple(grid)}; expected whole numbers from 1")

    def measure(self, stage: StageData) -> list[Measurement]:
        train, _ = read_split(stage, "train")
        grid = [k for k in self.grid if k <= len(train)]
        if not grid:
            raise ProbeError(f"stage {stage.name!r}: train has {len(train)} samples, fewer than k = {self.grid[0]}")
        _, labels = read_split(stage, "val")
        found = nearest_labels(stage, "val", grid[-1])
        votes = [majority(found[:, :k], len(stage.classes)).numpy() for k in grid]
        shares = [float(np.mean(predicted == labels)) for predicted in votes]
        best = max(range(len(grid)), key=lambda at: shares[at])
        by_k = ", ".join(f"{k}: {share:.4f}" for k, share in zip(grid, shares, strict=True))
        note = f"k={grid[best]}, chosen on val ({by_k})"
        rows = accuracies_of("knn_accuracy", votes[best], labels, "val", stage.classes, note)
        if "test" in stage.features:
            _, labels = read_split(stage, "test")
            predicted = majority(nearest_labels(stage, "test", grid[best]), len(stage.classes)).numpy()
            rows += accuracies_of("knn_accuracy", predicted, labels, "test", stage.classes, note)
        return rows


@PROBES.register("ncm")
class NearestClassMean:
    """Accuracy of giving each sample the class whose training mean is nearest (Euclidean).

    Rows ``ncm_accuracy`` for val and test and for each class of both, in [0, 1] with Wilson intervals (Mensink et al.
    2013). A class without training samples is never predicted.
    """

    name = "ncm"

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


def nearest_labels(stage: StageData, split: str, k: int) -> Tensor:
    """Labels (N, k) of the ``k`` training samples nearest to each sample of ``split``, nearest first, on the CPU.

    Both sides are read in blocks, so that memory stays within ``memory_bytes`` however many samples there are.
    """
    train, train_labels = read_split(stage, "train")
    features, _ = read_split(stage, split)
    fitting = max(1, stage.memory_bytes // 8 // (8 * (train.shape[1] + 2 * k)))
    known = torch.tensor(train_labels).to(float64_device(stage.device))
    parts = []
    for _, queries in feature_blocks(features, fitting):
        x = as_float64(queries, stage.device)
        distances = x.new_full((len(x), k), torch.inf)
        labels = torch.zeros_like(distances, dtype=torch.int64)
        for at, reference in feature_blocks(train, min(fitting, REFERENCE_ROWS)):
            own = known[at]
            for rows, d2 in squared_distance_blocks(x, as_float64(reference, stage.device)):
                near, columns = smallest(d2, min(k, len(own)))
                both = torch.cat([distances[rows], near], 1)
                distances[rows], order = both.topk(k, dim=1, largest=False, sorted=True)
                labels[rows] = torch.cat([labels[rows], own[columns]], 1).gather(1, order)
        parts.append(labels.cpu())
    return torch.cat(parts)


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
