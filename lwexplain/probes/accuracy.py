"""Accuracy with its interval, of all samples, of each class, and balanced over the classes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.class_balance import unevenness
from lwexplain.intervals import Z95, mean_share_interval, wilson_interval
from lwexplain.metrics import balanced_metric
from lwexplain.probes.base import Measurement

__all__ = [
    "Z95",
    "accuracies_of",
    "accuracy_of",
    "balanced_accuracy_of",
    "balanced_rows",
    "wilson_interval",
]


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


def balanced_accuracy_of(
    metric: str, predicted: np.ndarray, labels: np.ndarray, split: str, classes: list[str], note: str = ""
) -> Measurement:
    """Balanced accuracy beside the accuracy ``metric``: the mean over the classes present of the share that is right.

    Its 95 % interval is that of ``intervals.mean_share_interval``; the note says where the classes are uneven.
    """
    counts = np.bincount(labels, minlength=len(classes))
    right = np.bincount(labels[predicted == labels], minlength=len(classes))
    value, low, high, remark = _balanced(right.tolist(), counts.tolist())
    notes = "; ".join(text for text in (note, remark) if text)
    return Measurement(balanced_metric(metric), value, split, low=low, high=high, n=len(labels), note=notes)


def balanced_rows(rows: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of balanced accuracy beside those rows of a table that give an accuracy of all samples and of every class.

    So every probe that measures single classes gets one, a third-party one, too, unless it gives it itself. What is
    no share of whole samples makes none.
    """
    known = list(rows)
    single: dict[tuple[Any, ...], dict[str, tuple[int, int]]] = {}
    for row in known:
        if isinstance(row["class"], str) and row["class"] in classes and str(row["metric"]).endswith("_accuracy"):
            n = row["n"]
            if pd.isna(n) or n < 1 or not 0 <= row["value"] <= 1:
                continue
            place = row["stage"], row["metric"], row["split"]
            single.setdefault(place, {})[row["class"]] = (round(row["value"] * n), int(n))
    given = {(row["stage"], row["metric"], row["split"]) for row in known}
    found = []
    for row in known:
        place = row["stage"], row["metric"], row["split"]
        by_class = single.get(place, {})
        taken = (row["stage"], balanced_metric(str(row["metric"])), row["split"]) in given
        if isinstance(row["class"], str) or taken or not by_class or pd.isna(row["n"]):
            continue
        if sum(n for _, n in by_class.values()) != row["n"]:
            continue
        right, counts = zip(*(by_class.get(name, (0, 0)) for name in classes), strict=True)
        value, low, high, remark = _balanced(right, counts)
        notes = "; ".join(text for text in (row["note"] or "", remark) if text)
        about = {"metric": balanced_metric(row["metric"]), "value": value, "low": low, "high": high, "note": notes}
        found.append({**row, **about})
    return found


def _balanced(right: Sequence[int], counts: Sequence[int]) -> tuple[float, float, float, str]:
    """Balanced accuracy, its interval, and what is to be said of the classes, from the samples of each."""
    present = [(hits, n) for hits, n in zip(right, counts, strict=True) if n > 0]
    value = float(np.mean([hits / n for hits, n in present]))
    low, high = mean_share_interval([hits for hits, _ in present], [n for _, n in present])
    return value, min(low, value), max(high, value), unevenness(counts)
