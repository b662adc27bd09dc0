"""The long table of measurements: its columns, what is known of it as a whole, and the questions that are asked of it.

What is known of the whole travels in the frame's ``attrs``, which parquet keeps as well. Only this module reads and
writes them: everybody else asks ``TableInfo.of(table)``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "stage": "name of the stage",
    "depth": "its place among the stages, from 1",
    "split": "train, val or test; none for what no images are needed for, such as costs",
    "metric": "what was measured: letters, digits and _",
    "class": "the class, pair of classes or other stage that the value is about; empty for all classes together",
    "value": "the value",
    "low": "lower end of its interval (95 % unless the note says otherwise); empty where there is none",
    "high": "upper end of its interval",
    "n": "samples the value rests on; empty where there are none",
    "seed": "what the random parts of the measurement were drawn with",
    "probe": "name of the probe that measured it",
    "note": "what a reader must know of it: sub-samples, no convergence; several are joined by '; '",
}
"""The columns of the long table: each row is a measurement."""


@dataclass(frozen=True)
class TableInfo:
    """What is known of a long table as a whole; ``of`` reads it from a table and ``put_on`` writes it onto one.

    Every field may be missing in a table of somebody else's, or of an earlier version; it is then as below.
    """

    stages: list[str] = field(default_factory=list)
    """Names of the stages in order of depth, the first at depth 1."""

    classes: list[str] = field(default_factory=list)
    """Names of the classes; the first is that of label 0."""

    strategy: str | None = None
    """How the network was trained (``bp``, ``greedy``, ...); None for one that lwexplain did not train."""

    input_shape: list[int] | None = None
    """Shape of one input without the batch dimension, (C, H, W) of an image; None where the table does not say it."""

    built_in: list[str] | None = None
    """The probes that came with the package when the table was made; None where the table does not say it."""

    chance: float | None = None
    """The share of the most frequent class of val, in [0, 1]: the accuracy of always guessing it; None if unknown."""

    forward: str = ""
    """In which precision the features were captured, in words; "" where the table does not say it."""

    data_notes: list[str] = field(default_factory=list)
    """What was noted when the images were read."""

    notes: list[str] = field(default_factory=list)
    """What is to be known of the analysis as a whole: why a network's own output is not measured, what is assumed."""

    patterns: dict[str, Any] | None = None
    """By source of predictions, on how many val samples which stages were right (``results.correctness_patterns``);
    None where the table does not say it."""

    metrics: dict[str, Any] = field(default_factory=dict)
    """What probes declare of their metrics: by name its ``title``, ``better`` and ``family`` (``lwexplain.Metric``)."""

    failures: list[dict[str, str | None]] = field(default_factory=list)
    """The probes that raised: ``probe``, ``stage`` (None for all together) and ``error`` of each."""

    @classmethod
    def of(cls, table: "pd.DataFrame") -> "TableInfo":
        """What a table says, whoever made it: a field of another kind counts as missing, and nothing is raised."""
        said = raw_info(table)
        readable = {item.name: READ[item.name](said.get(item.name)) for item in fields(cls)}
        return cls(**{name: value for name, value in readable.items() if value is not None})

    def put_on(self, table: "pd.DataFrame") -> "pd.DataFrame":
        """The table itself, which says all this now; what is None is not written, except of ``strategy``."""
        said = {item.name: getattr(self, item.name) for item in fields(self)}
        kept = {name: value for name, value in said.items() if value is not None or name == "strategy"}
        return attach(table, kept)


class SharedMapping(dict[str, Any]):
    """A mapping that nobody changes: its copy is itself."""

    def __copy__(self) -> "SharedMapping":
        return self

    def __deepcopy__(self, memo: Any) -> "SharedMapping":
        return self


def attach(table: "pd.DataFrame", said: Mapping[str, Any]) -> "pd.DataFrame":
    """The table itself, which carries what is said of it from now on.

    pandas copies that at every step, and of many samples it is large: copies of the table share the mappings in it.
    """
    shared = {name: SharedMapping(value) if isinstance(value, dict) else value for name, value in said.items()}
    table.attrs.update(shared)
    return table


def raw_info(table: "pd.DataFrame") -> Mapping[Any, Any]:
    """What a table says, as it stands there: for the check of a stranger's table."""
    return table.attrs


def without_info(table: "pd.DataFrame") -> "pd.DataFrame":
    """The same rows without what is known of the whole, which pandas copies at every step: of many samples it is
    large."""
    import pandas as pd

    bare = pd.DataFrame(table, copy=False)
    bare.attrs = {}
    return bare


def overall(table: "pd.DataFrame") -> "pd.DataFrame":
    """The rows about all classes together, without what is known of the whole."""
    bare = without_info(table)
    return bare[bare["class"].isna()]


def rows_of(table: "pd.DataFrame", metric: str, split: str) -> "pd.DataFrame":
    """The rows of one metric on one split about all classes together, by depth."""
    bare = without_info(table)
    rows = bare[(bare["metric"] == metric) & (bare["split"] == split) & bare["class"].isna()]
    return rows.sort_values("depth", kind="stable")


def per_depth(table: "pd.DataFrame", metric: str, split: str) -> "pd.DataFrame":
    """The rows of ``rows_of`` that have a value, one for each depth."""
    return rows_of(table, metric, split).dropna(subset=["value"]).drop_duplicates("depth")


def value_at(table: "pd.DataFrame", metric: str, split: str, depth: int) -> float | None:
    """The value of one metric on one split at one depth (from 1); None where it was not measured."""
    rows = per_depth(table, metric, split)
    found = rows.loc[rows["depth"] == depth, "value"]
    return None if found.empty else float(found.iloc[0])


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _texts(value: Any) -> list[str] | None:
    return [str(item) for item in value] if isinstance(value, list) else None


def _whole_numbers(value: Any) -> list[int] | None:
    return list(value) if isinstance(value, list) and all(type(item) is int for item in value) else None


def _mapping(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _failures(value: Any) -> list[dict[str, str | None]] | None:
    return [_failure(item) for item in value] if isinstance(value, list) else None


def _failure(item: Any) -> dict[str, str | None]:
    if not isinstance(item, Mapping):
        return {"probe": str(item), "stage": None, "error": None}
    return {key: None if item.get(key) is None else str(item[key]) for key in ("probe", "stage", "error")}


READ: dict[str, Callable[[Any], Any]] = {
    "stages": _texts,
    "classes": _texts,
    "strategy": _text,
    "input_shape": _whole_numbers,
    "built_in": _texts,
    "chance": _number,
    "forward": _text,
    "data_notes": _texts,
    "notes": _texts,
    "patterns": _mapping,
    "metrics": _mapping,
    "failures": _failures,
}
"""How each field is read; None for what it cannot be."""
