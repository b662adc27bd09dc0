"""Classifiers that fit nothing: the nearest training samples, and the nearest class mean."""

from collections.abc import Sequence

import numpy as np
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import accuracy_of
from lwexplain.probes.base import PROBES, Measurement, StageData
from lwexplain.probes.distances import nearest_rows, squared_distance_blocks
from lwexplain.probes.splits import as_float64, read_split, splits_of


@PROBES.register("knn")
class NearestNeighbours:
    """Accuracy of the vote of the k nearest training samples, k chosen on val (ties: the smaller k).

    Rows ``knn_accuracy`` for val and test, in [0, 1] with Wilson intervals, Euclidean distance on the
    features as they are. A tied vote goes to the class of the nearest sample among the tied (Cover and Hart
    1967).
    """

    name = "knn"

    def __init__(self, grid: Sequence[int] = (1, 5, 10, 20)) -> None:
        self.grid = tuple(sorted(grid))
        if not self.grid or self.grid[0] < 1:
            raise ProbeError(f"knn: the grid of k is {tuple(grid)}; expected whole numbers from 1")

    def measure(self, stage: StageData) -> list[Measurement]:
        train, train_labels = read_split(stage, "train")
        grid = [k for k in self.grid if k <= len(train)]
        if not grid:
            raise ProbeError(f"stage {stage.name!r}: train has {len(train)} samples, fewer than k = {self.grid[0]}")
        reference, reference_labels = as_float64(train, stage.device), torch.tensor(train_labels)

        def neighbour_labels(split: str, k: int) -> tuple[torch.Tensor, np.ndarray]:
            features, labels = read_split(stage, split)
            nearest = nearest_rows(as_float64(features, stage.device), reference, k)
            return reference_labels[nearest.cpu()], labels

        def row(split: str, neighbours: torch.Tensor, labels: np.ndarray, k: int) -> Measurement:
            predicted = majority(neighbours[:, :k], len(stage.classes)).numpy()
            return accuracy_of("knn_accuracy", predicted, labels, split, note=f"k={k}")

        found, labels = neighbour_labels("val", grid[-1])
        candidates = [row("val", found, labels, k) for k in grid]
        best = max(range(len(grid)), key=lambda i: candidates[i].value)
        rows = [candidates[best]]
        if "test" in stage.features:
            rows.append(row("test", *neighbour_labels("test", grid[best]), grid[best]))
        return rows


@PROBES.register("ncm")
class NearestClassMean:
    """Accuracy of giving each sample the class whose training mean is nearest (Euclidean).

    Rows ``ncm_accuracy`` for val and test, in [0, 1] with Wilson intervals (Mensink et al. 2013). A class
    without training samples is never predicted.
    """

    name = "ncm"

    def measure(self, stage: StageData) -> list[Measurement]:
        train, train_labels = read_split(stage, "train")
        x = as_float64(train, stage.device)
        present = np.unique(train_labels)
        means = torch.stack([x[torch.from_numpy(train_labels == k).to(x.device)].mean(0) for k in present])
        rows = []
        for split in splits_of(stage, ("val", "test")):
            features, labels = read_split(stage, split)
            blocks = squared_distance_blocks(as_float64(features, stage.device), means)
            nearest = torch.cat([d2.argmin(1) for _, d2 in blocks]).cpu().numpy()
            rows.append(accuracy_of("ncm_accuracy", present[nearest], labels, split))
        return rows


def majority(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Most frequent label per row of ``labels`` (N, k), nearest first; ties go to the label that comes
    first."""
    votes = torch.zeros(len(labels), classes, dtype=torch.int64)
    votes.scatter_add_(1, labels, torch.ones_like(labels))
    first = votes.gather(1, labels).argmax(1, keepdim=True)  # argmax takes the first of equals
    return labels.gather(1, first)[:, 0]
