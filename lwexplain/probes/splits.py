"""Reading a split of a stage: every probe gets checked arrays, or an error that says what is wrong."""

import numpy as np
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.base import StageData


def read_split(stage: StageData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and labels (N,) int64 of a split.

    Raises ProbeError where the split is missing or empty, shapes do not fit, a value is not finite, or a
    label is not among the classes.
    """
    if split not in stage.features:
        have = ", ".join(stage.features) or "none"
        raise ProbeError(f"stage {stage.name!r} has no features for split {split!r}; present: {have}")
    features, labels = np.asarray(stage.features[split]), read_labels(stage, split)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ProbeError(f"stage {stage.name!r}: {split} features have shape {features.shape}; expected (N, D)")
    if len(features) != len(labels):
        raise ProbeError(f"stage {stage.name!r}: {len(features)} {split} features but {len(labels)} labels")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ProbeError(
            f"stage {stage.name!r}: {int((~finite).sum())} of {len(features)} {split} samples have features "
            f"that "
            "are NaN or infinite"
        )
    return features, labels


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
    place = "cpu" if device.startswith("mps") else device
    return torch.from_numpy(np.array(features, dtype=np.float64)).to(place)
