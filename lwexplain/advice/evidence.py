"""What an analysis measured, by depth: the curves that depth rules and the fitted depth model read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lwexplain.errors import AdviceError


@dataclass(frozen=True)
class Evidence:
    """The overall rows of an analysis table as curves over the S stages.

    ``curves[metric, split]`` float64 (S,), NaN where a stage has no such row; ``chance`` the accuracy of always
    guessing the most frequent class of val. ``counts[metric, split]`` the samples a value rests on, the fewest of any
    stage; left out where the rows say none. ``side`` the smaller side of the images in pixels, None where the table
    does not say it.
    """

    stages: list[str]
    strategy: str | None
    chance: float
    curves: Mapping[tuple[str, str], np.ndarray]
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    side: int | None = None

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Evidence":
        """The curves of a table that ``lw.analyze`` or ``lw.analyze_model`` returned, or of part of its rows."""
        stages = list(table.attrs.get("stages") or [])
        if not stages:
            raise AdviceError("the table names no stages; pass the run, or the table as lw.analyze returned it")
        curves: dict[tuple[str, str], np.ndarray] = {}
        counts: dict[tuple[str, str], int] = {}
        overall = table[table["class"].isna()].drop_duplicates(["metric", "split", "depth"], keep="last")
        for (metric, split), rows in overall.groupby(["metric", "split"]):
            curve = np.full(len(stages), np.nan)
            curve[rows["depth"].to_numpy() - 1] = rows["value"].to_numpy()
            curves[str(metric), str(split)] = curve
            if rows["n"].notna().any():
                counts[str(metric), str(split)] = int(rows["n"].min())
        chance = float(table.attrs.get("chance") or 1 / len(table.attrs["classes"]))
        shape = table.attrs.get("input_shape") or []
        side = min(shape[1:]) if len(shape) == 3 else None
        return cls(stages, table.attrs.get("strategy"), chance, curves, counts, side)

    def curve(self, metric: str, split: str = "val") -> np.ndarray:
        """float64 (S,) of a metric; all NaN where it was not measured."""
        return self.curves.get((metric, split), np.full(len(self.stages), np.nan))

    def has(self, metric: str, split: str = "val") -> bool:
        """True where every stage has a value."""
        return bool(np.isfinite(self.curve(metric, split)).all())
