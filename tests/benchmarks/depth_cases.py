"""The result files of the oracle sweep, read back as analysis tables with the truth beside them."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from result_file import RESULTS

from lwexplain.results import metrics_frame
from lwexplain.table import TableInfo

TOLERANCE = 0.005


@dataclass(frozen=True, eq=False)
class Unit:
    """One task with one seed: the analysis of its full-depth network and what every depth reached when retrained."""

    seed: int
    table: pd.DataFrame
    val_accuracy: np.ndarray
    test_accuracy: np.ndarray
    seconds: np.ndarray
    n_test: int


@dataclass(frozen=True, eq=False)
class Case:
    """A task of the sweep with the units of all its seeds."""

    name: str
    title: str
    strategy: str
    control: str | None
    units: tuple[Unit, ...]

    @cached_property
    def accuracy(self) -> np.ndarray:
        """(S,) mean over the seeds of the test accuracy of the network retrained at each depth."""
        return np.mean([unit.test_accuracy for unit in self.units], axis=0)

    @property
    def oracle(self) -> int:
        """Position of the cheapest depth whose mean test accuracy is within the tolerance of the best depth's."""
        return int(np.argmax(self.accuracy >= self.accuracy.max() - TOLERANCE))

    @cached_property
    def parameters(self) -> np.ndarray:
        """(S,) of the network cut at each depth, head included."""
        rows = self.units[0].table.query("metric == 'parameters'").sort_values("depth")
        return rows["value"].to_numpy()

    def regret(self, position: int) -> float:
        """Test accuracy of the oracle's depth less that of another one."""
        return float(self.accuracy[self.oracle] - self.accuracy[position])


def read_cases(folder: Path = RESULTS / "depth_oracle") -> list[Case]:
    """All tasks of the sweep, in the order of their names."""
    return [case_of(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]


def case_of(content: dict[str, Any]) -> Case:
    about = content["task"]
    units = []
    for seed in content["seeds"]:
        rows = sorted(seed["retrained"], key=lambda row: row["depth"])
        columns = [np.array([row[key] for row in rows]) for key in ("val_accuracy", "test_accuracy", "seconds")]
        units.append(Unit(seed["seed"], table_of(seed["evidence"]), *columns, n_test=rows[0]["n_test"]))
    return Case(about["name"], about["title"], about["strategy"], about["control"], tuple(units))


def table_of(evidence: dict[str, Any]) -> pd.DataFrame:
    """The analysis table, as far as it was kept (``depth_oracle.compact``)."""
    rows = []
    for metric, splits in evidence["metrics"].items():
        for split, found in splits.items():
            columns = {key: found.get(key) or [None] * len(evidence["stages"]) for key in ("value", "low", "high")}
            for position, stage in enumerate(evidence["stages"]):
                if columns["value"][position] is None:
                    continue
                value = {key: column[position] for key, column in columns.items()}
                rows.append(
                    {"stage": stage, "depth": position + 1, "split": split, "metric": metric, "class": None}
                    | value
                    | {"n": found.get("n"), "seed": 0, "probe": "", "note": ""}
                )
    return metrics_frame(rows, TableInfo(**{key: value for key, value in evidence.items() if key != "metrics"}))
