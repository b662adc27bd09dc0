"""The evidence of a depth decision: accuracy by depth, and its paired bootstrap over val samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.errors import AdviceError

SOURCES = ("head", "linear_probe")
RESAMPLES = 2000


@dataclass(frozen=True)
class DepthCurve:
    """Accuracy on val by depth.

    ``accuracy`` (S,) in [0, 1]; ``resampled`` (B, S) the accuracies in B bootstrap resamples of the n val samples,
    paired: a resample holds the same samples at every depth.
    """

    source: str
    stages: list[str]
    depths: list[int]
    accuracy: np.ndarray
    resampled: np.ndarray
    n: int

    @property
    def best(self) -> int:
        """Position of the highest accuracy; the shallowest where several tie."""
        return int(np.argmax(self.accuracy))


def decision_source(table: pd.DataFrame) -> str:
    """What depth is decided on: the stages' own heads where every stage has one, else the linear probe.

    Raises AdviceError where the table holds the predictions of neither.
    """
    patterns = _patterns(table)
    if len(patterns.get("head", {}).get("stages", [])) == len(table.attrs["stages"]):
        return "head"
    if "linear_probe" in patterns:
        return "linear_probe"
    raise AdviceError("no depth can be decided: run the analysis with the probe 'linear' (lwexplain analyze)")


def depth_curve(table: pd.DataFrame, split: str = "val", source: str | None = None) -> pd.DataFrame:
    """Accuracy by depth with its 95 % interval: columns stage, depth, accuracy, low, high, n, ascending depth."""
    metric = f"{source or decision_source(table)}_accuracy"
    rows = table[(table["metric"] == metric) & (table["split"] == split) & table["class"].isna()]
    columns = ["stage", "depth", "value", "low", "high", "n"]
    return rows[columns].rename(columns={"value": "accuracy"}).sort_values("depth", ignore_index=True)


def bootstrap_curve(table: pd.DataFrame, source: str | None = None, *, seed: int = 0) -> DepthCurve:
    """The depth curve of val with RESAMPLES paired bootstrap resamples (Efron and Tibshirani 1993).

    Reads nothing but the correctness patterns of val, so ``test`` cannot leak into a decision. The resamples are
    the same for the same counts and seed.
    """
    source = source or decision_source(table)
    pattern = _patterns(table)[source]
    depth_of = {name: depth for depth, name in enumerate(table.attrs["stages"], start=1)}
    measured = set(depth_curve(table, "val", source)["stage"])
    columns = [column for column, name in enumerate(pattern["stages"]) if name in measured]
    if not columns:
        raise AdviceError(f"the table has no row {source}_accuracy on val; pass it with the rows it is decided on")
    stages = [pattern["stages"][column] for column in columns]
    right = np.array([[key[column] == "1" for column in columns] for key in pattern["counts"]], dtype=float)
    counts = np.array(list(pattern["counts"].values()), dtype=float)
    return _resampled_curve(source, stages, [depth_of[name] for name in stages], right, counts, seed)


def curve_of_hits(hits: list[np.ndarray], *, seed: int = 0) -> DepthCurve:
    """The depth curve of the stages trained so far, from which val samples (N,) bool each got right."""
    right, counts = np.unique(np.stack(hits, axis=1), axis=0, return_counts=True)
    depths = list(range(1, len(hits) + 1))
    return _resampled_curve("head", [str(d) for d in depths], depths, right.astype(float), counts.astype(float), seed)


def _resampled_curve(
    source: str, stages: list[str], depths: list[int], right: np.ndarray, counts: np.ndarray, seed: int
) -> DepthCurve:
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
    return DepthCurve(source, stages, depths, counts @ right / n, draws @ right / n, n)


def _patterns(table: pd.DataFrame) -> dict[str, Any]:
    patterns = table.attrs.get("patterns")
    if not isinstance(patterns, dict) or not table.attrs.get("stages"):
        raise AdviceError(
            "the table does not say which val samples each stage got right; pass the run, "
            "or the table as lw.analyze or lw.analyze_model returned it"
        )
    return {source: pattern for source, pattern in patterns.items() if source in SOURCES and pattern["n"] > 0}
