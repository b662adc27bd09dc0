"""The evidence of a depth decision: accuracy by depth, and its paired bootstrap over val samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.errors import AdviceError
from lwexplain.table import TableInfo, rows_of

ACCURACY_SOURCES = ("head", "linear_probe")
"""What can say how accurate a depth is: the head its stage was trained with, or a linear probe of its features."""

RESAMPLES = 2000

JOINT_STRATEGIES = ("deep_supervision",)
"""Strategies with a head at every stage that are not layer-wise: the loss of each head reaches all stages before it, so
that an early stage is not what it would be in a network that ends there."""


@dataclass(frozen=True)
class DepthCurve:
    """Accuracy on val by depth.

    ``accuracy`` (S,) in [0, 1]; ``resampled`` (B, S) the accuracies in B bootstrap resamples of the n val samples,
    paired: a resample holds the same samples at every depth. ``against_guess`` (2, S) counts the samples that a depth
    gets right and always guessing the most frequent class does not, and the other way round; None where the table does
    not say which samples are of that class.
    """

    source: str
    stages: list[str]
    depths: list[int]
    accuracy: np.ndarray
    resampled: np.ndarray
    n: int
    against_guess: np.ndarray | None = None

    @property
    def best(self) -> int:
        """Position of the highest accuracy; the shallowest where several tie."""
        return int(np.argmax(self.accuracy))


def decision_source(table: pd.DataFrame, *, retrain: bool = True) -> str:
    """What depth is decided on: the stages' own heads where every stage has one, else the linear probe.

    With ``retrain``, heads count only where the stages were trained layer by layer (see ``JOINT_STRATEGIES``). Raises
    AdviceError where the table holds the predictions of neither.
    """
    patterns = _patterns(table)
    info = TableInfo.of(table)
    own_heads = "head" in patterns and len(patterns["head"].stages) == len(info.stages)
    joint = info.strategy in JOINT_STRATEGIES
    if own_heads and not (joint and retrain):
        return "head"
    if "linear_probe" in patterns:
        return "linear_probe"
    why = "its heads were trained together, which does not tell what a shorter network would reach: " if joint else ""
    raise AdviceError(f"no depth can be decided: {why}run the analysis with the probe 'linear' (lwexplain analyze)")


def depth_curve(table: pd.DataFrame, split: str = "val", source: str | None = None) -> pd.DataFrame:
    """Accuracy by depth with its 95 % interval: columns stage, depth, accuracy, low, high, n, ascending depth."""
    rows = rows_of(table, f"{source or decision_source(table)}_accuracy", split)
    columns = ["stage", "depth", "value", "low", "high", "n"]
    return rows[columns].rename(columns={"value": "accuracy"}).reset_index(drop=True)


def bootstrap_curve(table: pd.DataFrame, source: str | None = None, *, seed: int = 0) -> DepthCurve:
    """The depth curve of val with RESAMPLES paired bootstrap resamples (Efron and Tibshirani 1993).

    Reads nothing but the correctness patterns of val, so ``test`` cannot leak into a decision. The resamples are
    the same for the same counts and seed.
    """
    source = source or decision_source(table)
    pattern = _patterns(table)[source]
    info = TableInfo.of(table)
    depth_of = {name: depth for depth, name in enumerate(info.stages, start=1)}
    measured = set(depth_curve(table, "val", source)["stage"])
    columns = [column for column, name in enumerate(pattern.stages) if name in measured]
    if not columns:
        raise AdviceError(f"the table has no row {source}_accuracy on val; pass it with the rows it is decided on")
    stages = [pattern.stages[column] for column in columns]
    depths = [depth_of[name] for name in stages]
    frequent = pattern.frequent_beside(info.chance)
    return _resampled_curve(source, stages, depths, pattern.right[:, columns], pattern.counts, frequent, seed)


def held_against_guess(table: pd.DataFrame, source: str, depth: int) -> tuple[int, np.ndarray | None] | None:
    """The val samples that one depth (from 1) was measured on, and its column (2, 1) of ``DepthCurve.against_guess``;
    None where the table does not say which samples it got right."""
    info = TableInfo.of(table)
    pattern, stage = _patterns(table).get(source), info.stages[depth - 1]
    if pattern is None or stage not in pattern.stages:
        return None
    right = pattern.right[:, [pattern.stages.index(stage)]]
    return int(pattern.counts.sum()), _against(pattern.counts, right, pattern.frequent_beside(info.chance))


def curve_of_hits(hits: list[np.ndarray], frequent: np.ndarray | None = None, *, seed: int = 0) -> DepthCurve:
    """The depth curve of the stages trained so far, from which val samples (N,) bool each got right; ``frequent`` (N,)
    bool says which samples are of the most frequent class."""
    of_class = np.zeros(len(hits[0]), dtype=bool) if frequent is None else frequent
    columns = np.stack([*hits, of_class], axis=1)
    keys, counts = np.unique(columns, axis=0, return_counts=True)
    right, counts = keys[:, :-1].astype(float), counts.astype(float)
    depths = list(range(1, len(hits) + 1))
    guessed = None if frequent is None else np.where(keys[:, -1], counts, 0.0)
    return _resampled_curve("head", [str(d) for d in depths], depths, right, counts, guessed, seed)


def _resampled_curve(
    source: str,
    stages: list[str],
    depths: list[int],
    right: np.ndarray,
    counts: np.ndarray,
    frequent: np.ndarray | None,
    seed: int,
) -> DepthCurve:
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
    against = _against(counts, right, frequent)
    return DepthCurve(source, stages, depths, counts @ right / n, draws @ right / n, n, against)


def _against(counts: np.ndarray, right: np.ndarray, frequent: np.ndarray | None) -> np.ndarray | None:
    """``DepthCurve.against_guess`` (2, S) of patterns ``right`` (P, S) on ``counts`` (P,) samples."""
    return None if frequent is None else np.stack([(counts - frequent) @ right, frequent @ (1 - right)])


@dataclass(frozen=True)
class _Pattern:
    """Which of S stages were right (P, S), on how many val samples (P,), and on how many of them that are of the most
    frequent class (P,), None where the table does not say it."""

    stages: list[str]
    right: np.ndarray
    counts: np.ndarray
    frequent: np.ndarray | None

    @classmethod
    def of(cls, content: Mapping[str, Any], known: list[str]) -> "_Pattern":
        """Raises KeyError, TypeError or ValueError for what is no pattern of the known stages."""
        stages, keys = list(content["stages"]), list(content["counts"])
        counts = np.array([float(content["counts"][key]) for key in keys])
        if not set(stages) <= set(known) or any(len(key) != len(stages) or set(key) - {"0", "1"} for key in keys):
            raise ValueError("the patterns do not fit the stages")
        if not (np.isfinite(counts).all() and (counts >= 0).all() and counts.sum() > 0):
            raise ValueError("the patterns hold no counts of samples")
        frequent = None
        if content.get("frequent") is not None:
            frequent = np.array([float(content["frequent"].get(key, 0)) for key in keys])
            if not (np.isfinite(frequent).all() and (frequent >= 0).all() and (frequent <= counts).all()):
                raise ValueError("more samples of a class than samples")
        right = np.array([[character == "1" for character in key] for key in keys], dtype=float)
        return cls(stages, right.reshape(len(keys), len(stages)), counts, frequent)

    def frequent_beside(self, chance: float | None) -> np.ndarray | None:
        """``frequent``, unless the table knows the share ``chance`` of the most frequent class to be another one."""
        if self.frequent is None or chance is None:
            return self.frequent
        return self.frequent if abs(self.frequent.sum() / self.counts.sum() - chance) < 1e-6 else None


def _patterns(table: pd.DataFrame) -> dict[str, _Pattern]:
    info = TableInfo.of(table)
    if info.patterns is None or not info.stages:
        raise AdviceError(
            "the table does not say which val samples each stage got right; pass the run, "
            "or the table as lw.analyze or lw.analyze_model returned it"
        )
    try:
        return {
            source: _Pattern.of(content, info.stages)
            for source, content in info.patterns.items()
            if source in ACCURACY_SOURCES and content["n"] > 0
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdviceError(
            f"the table's account of which val samples each stage got right is damaged ({error}); "
            "run lwexplain analyze again"
        ) from None
