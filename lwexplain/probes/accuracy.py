"""Accuracy with its interval, of all samples and of each class."""

import math

import numpy as np

from lwexplain.probes.base import Measurement

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(p: float, n: int) -> tuple[float, float]:
    """95 % score interval for a proportion ``p`` of ``n`` samples (Wilson 1927, eq. of the score test)."""
    if n < 1:
        return 0.0, 1.0
    z2 = Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # p itself, whatever the rounding


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
