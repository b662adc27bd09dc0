"""Reading a split of a stage: every probe gets checked arrays, or an error that says what is wrong."""

from collections.abc import Iterator

import numpy as np
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.base import StageData
from lwexplain.probes.pages import let_go

BLOCK_BYTES = 8 * 2**20


def read_split(stage: StageData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and labels (N,) int64 of a split.

    Raises ProbeError where the split is missing or empty, shapes do not fit, a value is not finite, or a
    label is not among the classes.
    """
    if split not in stage.features:
        have = ", ".join(stage.features) or "none"
        raise ProbeError(f"stage {stage.name!r} has no features for split {split!r}; present: {have}")
    features, labels = np.asanyarray(stage.features[split]), read_labels(stage, split)  # a memory map stays one
    if features.ndim != 2 or features.shape[1] == 0:
        raise ProbeError(f"stage {stage.name!r}: {split} features have shape {features.shape}; expected (N, D)")
    if len(features) != len(labels):
        raise ProbeError(f"stage {stage.name!r}: {len(features)} {split} features but {len(labels)} labels")
    unusable = _unusable_samples(stage, split, features)
    if unusable:
        raise ProbeError(
            f"stage {stage.name!r}: {unusable} of {len(features)} {split} samples have features that are NaN "
            "or infinite; the model or its input holds such values, or half precision overflows: capture it in float32"
        )
    return features, labels


def _unusable_samples(stage: StageData, split: str, features: np.ndarray) -> int:
    """How many samples of a split have a feature that is not finite, counted once and remembered."""
    key = f"unusable:{split}"
    if key not in stage.memo:
        stage.memo[key] = sum(int((~np.isfinite(block).all(axis=1)).sum()) for _, block in feature_blocks(features))
    return stage.memo[key]


def feature_blocks(features: np.ndarray, rows: int | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Copies (n, D) of consecutive rows of ``features`` (N, D), each with its place; by default of about 8 MiB.

    Pages of a memory-mapped array are let go of behind the reader, so that a pass over it takes the memory of one
    block, however large the array.
    """
    rows = rows or max(1, BLOCK_BYTES // (features.shape[1] * features.itemsize))
    for start in range(0, len(features), rows):
        at = slice(start, min(start + rows, len(features)))
        block = np.array(features[at])
        let_go(features)
        yield at, block


def read_labels(stage: StageData, split: str) -> np.ndarray:
    """Labels (N,) int64 of a split; raises ProbeError where there are none or one is not among the
    classes."""
    labels = np.asarray(stage.labels.get(split, ()), dtype=np.int64).reshape(-1)
    if len(labels) == 0:
        raise ProbeError(f"stage {stage.name!r}: split {split!r} is empty")
    if labels.min() < 0 or labels.max() >= len(stage.classes):
        raise ProbeError(
            f"stage {stage.name!r}: {split} labels run from {labels.min()} to {labels.max()}, but there are "
            f"{len(stage.classes)} classes"
        )
    return labels


def splits_of(stage: StageData, wanted: tuple[str, ...]) -> list[str]:
    """Those of ``wanted`` that the stage has features for, in that order."""
    return [split for split in wanted if split in stage.features]


def as_float64(features: np.ndarray, device: str) -> torch.Tensor:
    """A float64 copy on ``device`` (on the CPU where the device has no float64)."""
    wide = np.array(features, dtype=np.float64)
    let_go(features)
    return torch.from_numpy(wide).to(float64_device(device))


def float64_device(device: str) -> str:
    """``device``, or the CPU where the device has no float64."""
    return "cpu" if device.startswith("mps") else device
