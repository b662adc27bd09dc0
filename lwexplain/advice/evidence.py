"""What an analysis measured, by depth: the curves that depth rules and the fitted depth model read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lwexplain.advice.curve import JOINT_STRATEGIES
from lwexplain.class_balance import unevenness, unevenness_of_largest
from lwexplain.errors import AdviceError
from lwexplain.table import TableInfo, overall, without_info


@dataclass(frozen=True)
class Evidence:
    """The overall rows of an analysis table as curves over the S stages.

    ``curves[metric, split]`` float64 (S,), NaN where a stage has no such row; ``chance`` the accuracy of always
    guessing the most frequent class of val. ``counts[metric, split]`` the samples a value rests on, the fewest of any
    stage; left out where the rows say none. ``side`` the smaller side of the images in pixels, None where the table
    does not say it. ``unevenness`` says where the classes of val are uneven, "" where they are even.
    """

    stages: list[str]
    strategy: str | None
    chance: float
    curves: Mapping[tuple[str, str], np.ndarray]
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    side: int | None = None
    unevenness: str = ""

    @property
    def is_layer_wise(self) -> bool:
        """True where the stages were not trained together, as far as the table says how they were trained."""
        return self.strategy not in JOINT_STRATEGIES

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Evidence":
        """The curves of a table that ``lw.analyze`` or ``lw.analyze_model`` returned, or of part of its rows."""
        info = TableInfo.of(table)
        stages = info.stages
        if not stages:
            raise AdviceError("the table names no stages; pass the run, or the table as lw.analyze returned it")
        if not info.classes:
            raise AdviceError("the table names no classes; pass the run, or the table as lw.analyze returned it")
        curves: dict[tuple[str, str], np.ndarray] = {}
        counts: dict[tuple[str, str], int] = {}
        kept = overall(table).drop_duplicates(["metric", "split", "depth"], keep="last")
        for (metric, split), rows in kept.groupby(["metric", "split"]):
            curve = np.full(len(stages), np.nan)
            curve[rows["depth"].to_numpy() - 1] = rows["value"].to_numpy()
            curves[str(metric), str(split)] = curve
            if rows["n"].notna().any():
                counts[str(metric), str(split)] = int(rows["n"].min())
        chance = info.chance or 1 / len(info.classes)
        shape = info.input_shape or []
        side = min(shape[1:]) if len(shape) == 3 else None
        uneven = _unevenness(without_info(table), info.classes, chance)
        return cls(stages, info.strategy, chance, curves, counts, side, uneven)

    def curve(self, metric: str, split: str = "val") -> np.ndarray:
        """float64 (S,) of a metric; all NaN where it was not measured."""
        return self.curves.get((metric, split), np.full(len(self.stages), np.nan))

    def has(self, metric: str, split: str = "val") -> bool:
        """True where every stage has a value."""
        return bool(np.isfinite(self.curve(metric, split)).all())

    def at(self, metric: str, depth: int, split: str = "val") -> float | None:
        """The value at one depth (from 1); None where it was not measured."""
        value = float(self.curve(metric, split)[depth - 1])
        return value if np.isfinite(value) else None


def _unevenness(table: pd.DataFrame, classes: list[str], chance: float) -> str:
    """From the rows of an accuracy of single classes on val; without any, from the share of the most frequent class."""
    rows = table[(table["split"] == "val") & table["class"].notna() & table["n"].notna()]
    for metric in ("head_accuracy", "linear_probe_accuracy", "knn_accuracy", "ncm_accuracy"):
        found = rows[rows["metric"] == metric].drop_duplicates("class")
        if not found.empty:
            known = dict(zip(found["class"].astype(str), found["n"].astype(int), strict=True))
            return unevenness([known.get(name, 0) for name in classes])
    return unevenness_of_largest(chance, len(classes))
