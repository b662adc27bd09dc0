"""The nearest samples of every sample, and which samples are copies, found once and shared by the probes."""

from dataclasses import dataclass

import numpy as np
import torch

from lwexplain.probes.base import StageData
from lwexplain.probes.copies import Copies, copies_among
from lwexplain.probes.distances import squared_distance_blocks
from lwexplain.probes.splits import as_float64, read_split
from lwexplain.probes.subsample import pairwise_samples

NEIGHBOURS = 10


@dataclass(frozen=True)
class Neighbours:
    """The k nearest other samples of each of n distinct samples, nearest first; Euclidean, on the features as they are.

    ``samples`` (n,) int64 are their positions in the split, sorted, one of each place; ``indices`` (n, k) int64 count
    within ``samples``; ``distances`` (n, k) float64 ascend along each row. k = NEIGHBOURS, or n - 1 where that is less.
    """

    samples: np.ndarray
    indices: np.ndarray
    distances: np.ndarray


def neighbours_of(stage: StageData, split: str = "val") -> Neighbours:
    """Nearest neighbours of the distinct samples of a split among themselves, found once and remembered.

    A split that is too large is represented by ``pairwise_samples``. Raises ProbeError as ``read_split`` does.
    """
    if (known := remembered_neighbours(stage, split)) is not None:
        return known
    return remember_neighbours(stage, split, _find_neighbours(stage, split))


def remember_neighbours(stage: StageData, split: str, found: Neighbours) -> Neighbours:
    """Keep the neighbours for ``neighbours_of``, which a pass over all distances finds along the way."""
    stage.memo[f"neighbours:{split}"] = found
    return found


def remembered_neighbours(stage: StageData, split: str) -> Neighbours | None:
    """The neighbours that were found before; None where they were not."""
    return stage.memo.get(f"neighbours:{split}")


def copies_in(stage: StageData, split: str) -> Copies:
    """The copies among the ``pairwise_samples`` of a split, found once and remembered."""
    key = f"copies:{split}"
    if key not in stage.memo:
        samples = pairwise_samples(stage, split)
        features = read_split(stage, split)[0]
        stage.memo[key] = copies_among(features if len(samples) == len(features) else features[samples])
    return stage.memo[key]


def copies_note(extra: int, n: int) -> str:
    """The remark that ``extra`` of n samples are copies; "" where none is."""
    said = "is a copy of another and counts" if extra == 1 else "are copies of others and count"
    return f"{extra:,} of {n:,} samples ({extra / n:.1%}) {said} once" if extra else ""


def _find_neighbours(stage: StageData, split: str) -> Neighbours:
    samples = pairwise_samples(stage, split)[copies_in(stage, split).distinct()]
    x = as_float64(read_split(stage, split)[0][samples], stage.device)
    k = min(NEIGHBOURS, len(x) - 1)
    indices, distances = [], []
    for rows, d2 in squared_distance_blocks(x):
        d2.diagonal(rows.start).fill_(torch.inf)
        nearest = d2.topk(k, dim=1, largest=False, sorted=True)
        indices.append(nearest.indices.cpu())
        distances.append(nearest.values.sqrt().cpu())
    return Neighbours(samples, torch.cat(indices).numpy(), torch.cat(distances).numpy())
