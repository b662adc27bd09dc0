"""At which depth each sample is understood, from the predictions of all stages; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import wilson_interval


def confusion(predictions: pd.DataFrame, stage: str, *, source: str, split: str, classes: Sequence[str]) -> np.ndarray:
    """Counts (K, K) of the samples of a split by class (row) and class predicted at a stage (column).

    ``predictions`` has the columns of ``results.PREDICTION_COLUMNS``. Raises ProbeError where there are none of this
    stage, source and split, or a class is not among the K.
    """
    part = _select(predictions, source, split)
    part = part[part["stage"] == stage]
    if part.empty:
        raise ProbeError(f"no predictions of {source!r} at stage {stage!r} on split {split!r}")
    k = len(classes)
    labels, predicted = part["label"].to_numpy(np.int64), part["predicted"].to_numpy(np.int64)
    lowest, highest = min(labels.min(), predicted.min()), max(labels.max(), predicted.max())
    if lowest < 0 or highest >= k:
        raise ProbeError(f"predictions of {source!r} name classes {lowest} to {highest}, but there are {k} classes")
    return np.bincount(labels * k + predicted, minlength=k * k).reshape(k, k)


def sample_depths(predictions: pd.DataFrame, *, source: str, split: str) -> pd.DataFrame:
    """A row for each sample, in their order: at which depth its answer is right, and at which it settles.

    ``first_correct`` is the depth of the first stage that is right (missing where none is); ``settled`` the first depth
    from which on all stages predict what the last one does (prediction depth, Baldock et al. 2021, there of k-NN
    probes); ``right_at_end`` whether the last stage is right; ``right_early_wrong_late`` whether a stage before is
    right and the last is not (overthinking, Kaya et al. 2019). Raises ProbeError where there are no such predictions
    or a sample lacks those of a stage.
    """
    table = _table(predictions, source, split)
    right, last = table.right, table.predicted[:, -1:]
    ever, at_end = right.any(1), right[:, -1]
    same = np.logical_and.accumulate((table.predicted == last)[:, ::-1], axis=1)[:, ::-1]
    first = pd.Series(table.depths[right.argmax(1)], dtype="Int64").where(pd.Series(ever))
    return pd.DataFrame(
        {
            "sample": table.samples,
            "label": table.labels,
            "first_correct": first,
            "settled": table.depths[same.argmax(1)],
            "right_at_end": at_end,
            "right_early_wrong_late": ever & ~at_end,
        }
    )


def depth_rows(predictions: pd.DataFrame, stages: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Rows for ``results.metrics_frame``: for each source, split and stage, shares of samples with Wilson intervals.

    For each source S, in [0, 1]: ``S_first_correct``, the samples first right at this stage;
    ``S_cumulative_correct``, those right at this stage or before; ``S_right_early_wrong_late``, those right at a stage
    before and wrong at this one. Only ``stages`` count.
    """
    predictions = predictions[predictions["stage"].isin(stages)]
    rows = []
    for source, split in predictions[["source", "split"]].drop_duplicates().itertuples(index=False):
        table = _table(predictions, str(source), str(split))
        now = table.right
        sofar = np.logical_or.accumulate(now, axis=1)
        before = np.concatenate([np.zeros_like(now[:, :1]), sofar[:, :-1]], axis=1)
        shares = {"first_correct": now & ~before, "cumulative_correct": sofar, "right_early_wrong_late": before & ~now}
        for metric, samples in shares.items():
            for place, (stage, depth) in enumerate(zip(table.stages, table.depths.tolist(), strict=True)):
                value, n = float(samples[:, place].mean()), len(samples)
                low, high = wilson_interval(value, n)
                rows.append(
                    {
                        "stage": stage,
                        "depth": depth,
                        "split": str(split),
                        "metric": f"{source}_{metric}",
                        "class": None,
                        "value": value,
                        "low": low,
                        "high": high,
                        "n": n,
                        "seed": seed,
                        "probe": "sample_depth",
                        "note": "",
                    }
                )
    return rows


@dataclass(frozen=True)
class _Table:
    """Predictions of one source on one split: ``predicted`` (N, S) for N samples and S stages by depth."""

    stages: list[str]
    depths: np.ndarray
    samples: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return self.predicted == self.labels[:, None]


def _select(predictions: pd.DataFrame, source: str, split: str) -> pd.DataFrame:
    part = predictions[(predictions["split"] == split) & (predictions["source"] == source)]
    if part.empty:
        raise ProbeError(f"no predictions of {source!r} on split {split!r}")
    return part


def _table(predictions: pd.DataFrame, source: str, split: str) -> _Table:
    part = _select(predictions, source, split).sort_values(["sample", "depth"], kind="stable")
    stages = part.drop_duplicates("depth").sort_values("depth")
    depths, samples = stages["depth"].to_numpy(np.int64), part["sample"].unique()
    shape = len(samples), len(depths)
    if len(part) != shape[0] * shape[1] or (part["depth"].to_numpy().reshape(shape) != depths).any():
        raise ProbeError(f"predictions of {source!r} on {split!r}: not every sample has one of each stage")
    labels = part["label"].to_numpy(np.int64).reshape(shape)
    return _Table(
        stages["stage"].astype(str).tolist(),
        depths,
        samples,
        labels[:, 0],
        part["predicted"].to_numpy(np.int64).reshape(shape),
    )
