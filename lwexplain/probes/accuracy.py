"""Accuracy with its interval, of all samples, of each class, and balanced over the classes."""

import numpy as np

from lwexplain.class_balance import unevenness
from lwexplain.intervals import Z95, mean_share_interval, wilson_interval
from lwexplain.probes.base import Measurement

__all__ = ["Z95", "accuracies_of", "accuracy_of", "balanced_accuracy_of", "balanced_metric", "wilson_interval"]


def accuracy_of(
    metric: str, predicted: np.ndarray, labels: np.ndarray, split: str, note: str = "", class_: str | None = None
) -> Measurement:
    """Share of ``predicted`` (N,) equal to ``labels`` (N,), in [0, 1], with its Wilson interval."""
    value = float(np.mean(predicted == labels))
    low, high = wilson_interval(value, len(labels))
    return Measurement(metric, value, split, class_=class_, low=low, high=high, n=len(labels), note=note)


def accuracies_of(
    metric: str, predicted: np.ndarray, labels: np.ndarray, split: str, classes: list[str], note: str = ""
) -> list[Measurement]:
    """``accuracy_of`` all samples, then of those of each class that has any."""
    rows = [accuracy_of(metric, predicted, labels, split, note)]
    for k, name in enumerate(classes):
        own = labels == k
        if own.any():
            rows.append(accuracy_of(metric, predicted[own], labels[own], split, note, class_=name))
    return rows


def balanced_metric(metric: str) -> str:
    """The name of the balanced accuracy beside an accuracy: ``head_accuracy`` -> ``head_balanced_accuracy``."""
    return f"{metric.removesuffix('_accuracy')}_balanced_accuracy"


def balanced_accuracy_of(
    metric: str, predicted: np.ndarray, labels: np.ndarray, split: str, classes: list[str], note: str = ""
) -> Measurement:
    """Balanced accuracy beside the accuracy ``metric``: the mean over the classes present of the share that is right.

    Its 95 % interval is that of ``intervals.mean_share_interval``; the note says where the classes are uneven.
    """
    counts = np.bincount(labels, minlength=len(classes))
    right = np.bincount(labels[predicted == labels], minlength=len(classes))
    present = counts > 0
    value = float(np.mean(right[present] / counts[present]))
    low, high = mean_share_interval(right[present].tolist(), counts[present].tolist())
    note = "; ".join(text for text in (note, unevenness(counts.tolist())) if text)
    return Measurement(
        balanced_metric(metric), value, split, low=min(low, value), high=max(high, value), n=len(labels), note=note
    )
