"""One check of each table of an analysis, for everyone who reads it: columns, types, names and ranges.

A check returns nothing and raises ValueError, which says what is wrong in a few words.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.arguments import shown
from lwexplain.costs import cost_metrics
from lwexplain.errors import ProbeError
from lwexplain.metrics import stored_metrics
from lwexplain.run.fields import LONGEST_TEXT, MOST_CLASSES, MOST_STAGES, is_count, is_names, is_number, is_text
from lwexplain.table import TableInfo, raw_info

SPLITS = ("train", "val", "test")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
NUMBERS = {"sample": 2**40, "depth": MOST_STAGES, "label": MOST_CLASSES, "predicted": MOST_CLASSES}
LARGEST_COORDINATE = 1e30


def check_outline(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Of the long table what nobody can do without: columns, rows, the names of stages and classes, numbers."""
    _require_columns(frame, columns)
    if frame.empty:
        raise ValueError("it holds no measurement")
    _check_info(raw_info(frame))
    for column in ("depth", "value", "low", "high"):
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise ValueError(f"column {column!r} holds no numbers")


def check_metrics(frame: pd.DataFrame) -> None:
    """The long table, whose outline is right: every row of a stage that it names, at its depth, with numbers that its
    metric can have."""
    check_rows(frame)
    stages = TableInfo.of(frame).stages
    for stage, depth in frame[["stage", "depth"]].drop_duplicates().itertuples(index=False, name=None):
        if not 1 <= depth <= len(stages) or stages[depth - 1] != stage:
            raise ValueError(f"stage {shown(stage)} stands at depth {depth}, which is not its place among the stages")


def check_rows(frame: pd.DataFrame) -> None:
    """Measurements as rows: texts, numbers and ranges."""
    _check_whole(frame, "depth", most=MOST_STAGES)
    _check_texts(frame, "stage", lambda text: True, "text")
    _check_texts(frame, "split", lambda text: text in (*SPLITS, "none"), f"one of {', '.join(SPLITS)}, none")
    _check_texts(frame, "metric", lambda text: NAME.fullmatch(text) is not None, "letters, digits and _")
    _check_texts(frame, "probe", lambda text: True, "text")
    for column in ("class", "note"):
        _check_texts(frame, column, lambda text: True, "text or nothing", gaps=True)
    for column in ("value", "low", "high"):
        if not pd.api.types.is_float_dtype(frame[column]) and not frame[column].isna().all():
            raise ValueError(f"column {column!r} holds no numbers")
    _check_whole(frame, "n", gaps=True)
    _check_whole(frame, "seed")
    _check_ranges(frame)
    if frame.duplicated(["stage", "split", "metric", "class"]).any():
        raise ValueError("it gives the same measurement twice")


def check_predictions(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Predicted classes, each of a sample at a depth."""
    _require_columns(frame, columns)
    _check_texts(frame, "split", lambda text: text in SPLITS, f"one of {', '.join(SPLITS)}")
    _check_texts(frame, "source", lambda text: NAME.fullmatch(text) is not None, "letters, digits and _")
    _check_texts(frame, "stage", lambda text: True, "text")
    for column, most in NUMBERS.items():
        _check_whole(frame, column, most=most)
    if frame.duplicated(["split", "sample", "stage", "source"]).any():
        raise ValueError("it gives the same prediction twice")


def check_embedding(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    """Points of a layout, each of a sample at a depth."""
    _require_columns(frame, columns)
    _check_texts(frame, "split", lambda text: text in SPLITS, f"one of {', '.join(SPLITS)}")
    _check_texts(frame, "stage", lambda text: True, "text")
    for column in ("sample", "depth", "label"):
        _check_whole(frame, column, most=NUMBERS[column])
    for column in ("x", "y"):
        if not pd.api.types.is_float_dtype(frame[column]):
            raise ValueError(f"column {column!r} holds no numbers")
        if not (frame[column].abs() <= LARGEST_COORDINATE).all():
            raise ValueError(f"column {column!r} holds numbers that cannot be drawn")


def check_attributions(index: Any) -> None:
    """What ``attributions/index.json`` says of the methods: lists of one length, names and classes that can be."""
    if not isinstance(index, dict) or not isinstance(index.get("methods"), dict):
        raise ValueError("it names no methods")
    classes: Any = index.get("classes")
    labels: Any = index.get("labels")
    if not is_names(classes, MOST_CLASSES) or not _are_classes(labels, len(classes)):
        raise ValueError("it does not name the classes of its images")
    for method, about in index["methods"].items():
        stages: Any = about.get("stages") if isinstance(about, dict) else None
        if not NAME.fullmatch(method) or not is_names(stages, MOST_STAGES):
            raise ValueError(f"method {shown(method)} is no name, or does not name its stages")
        targets, valid, notes = (about.get(key) for key in ("targets", "valid", "notes"))
        fits = all(isinstance(item, list) and len(item) == len(stages) for item in (targets, valid, notes))
        fits = fits and all(_are_classes(row, len(classes)) and len(row) == len(labels) for row in targets)
        if not fits or not all(isinstance(item, bool) for item in valid) or not all(map(is_text, notes)):
            raise ValueError(f"method {method}: targets, valid and notes do not fit its stages")
        image_notes = about.get("image_notes")
        if not isinstance(image_notes, list) or len(image_notes) != len(stages):
            raise ValueError(f"method {method}: image_notes do not fit its stages")
        if not all(isinstance(row, list) and len(row) == len(labels) and all(map(is_text, row)) for row in image_notes):
            raise ValueError(f"method {method}: image_notes are not one text for each image")


def _are_classes(values: Any, classes: int) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, (int, float)) and 0 <= value < classes and value == int(value) for value in values
    )


def _require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"it lacks the columns {missing}")


def _check_texts(frame: pd.DataFrame, column: str, fits: Any, expected: str, *, gaps: bool = False) -> None:
    values = frame[column]
    if not gaps and values.isna().any():
        raise ValueError(f"column {column!r} has gaps; expected {expected}")
    for value in values.dropna().unique():
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or not fits(value):
            raise ValueError(f"column {column!r} holds {shown(value)}; expected {expected}")


def _check_whole(frame: pd.DataFrame, column: str, *, gaps: bool = False, most: int = 2**63 - 1) -> None:
    values = frame[column]
    if gaps:
        values = values.dropna()
        if pd.api.types.is_float_dtype(values) and bool((values % 1 == 0).all()):
            values = values.astype("int64")  # whole numbers with gaps are written as floats
        if values.empty:
            return
    if not pd.api.types.is_integer_dtype(values) or values.isna().any():
        raise ValueError(f"column {column!r} holds no whole numbers")
    if not values.between(0, most).all():
        raise ValueError(f"column {column!r} holds numbers beyond 0 to {most:,}")


def _check_ranges(frame: pd.DataFrame) -> None:
    metric, value = frame["metric"].astype(str), frame["value"].astype("float64")
    shares = value[metric.str.endswith("_accuracy")].dropna()
    if not shares.between(0, 1).all():
        raise ValueError(f"it holds an accuracy of {shares[~shares.between(0, 1)].iloc[0]:g}; expected one in [0, 1]")
    costs = value[metric.isin(cost_metrics())].dropna()
    if not (np.isfinite(costs) & (costs >= 0)).all():
        raise ValueError("it holds a cost that is negative or infinite")
    if (frame["low"].astype("float64") > frame["high"].astype("float64")).any():
        raise ValueError("it holds an interval whose low end is above the high one")


def _check_info(attrs: Mapping[Any, Any]) -> None:
    for name, most in (("stages", MOST_STAGES), ("classes", MOST_CLASSES)):
        if not is_names(attrs.get(name), most):
            raise ValueError(f"it does not name its {name} in a list of 1 to {most:,} texts")
        if name == "stages" and len(set(attrs[name])) < len(attrs[name]):
            raise ValueError("it names a stage twice")
    shape = attrs.get("input_shape")
    checks = {
        "strategy": attrs.get("strategy") is None or is_text(attrs["strategy"]),
        "chance": attrs.get("chance") is None or (is_number(attrs["chance"]) and attrs["chance"] <= 1),
        "input_shape": shape is None or (isinstance(shape, list) and all(is_count(side) and side for side in shape)),
        "built_in": attrs.get("built_in") is None or is_names(attrs["built_in"], LONGEST_TEXT),
        "forward": attrs.get("forward") is None or is_text(attrs["forward"]),
        "failures": _are_failures(attrs.get("failures", [])),
        "patterns": _are_patterns(attrs.get("patterns", {}), attrs["stages"]),
        "metrics": is_metrics(attrs.get("metrics", {})),
    }
    for name, fits in checks.items():
        if not fits:
            raise ValueError(f"its attribute {name!r} is not what an analysis writes")


def is_metrics(stored: Any) -> bool:
    """Whether a value is what an analysis stores of the declarations of its metrics: by name, title and the rest."""
    if not isinstance(stored, dict) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in stored):
        return False
    try:
        stored_metrics(stored)
    except (ProbeError, KeyError, TypeError):
        return False
    return True


def _are_failures(failures: Any) -> bool:
    return isinstance(failures, list) and all(
        isinstance(failure, dict)
        and all(failure.get(key) is None or is_text(failure[key]) for key in ("probe", "stage", "error"))
        for failure in failures
    )


def _are_patterns(patterns: Any, stages: list[str]) -> bool:
    """Per source: known stages, and how often which of them were right, which adds up to the samples."""
    if not isinstance(patterns, dict):
        return False
    for pattern in patterns.values():
        if not isinstance(pattern, dict) or not is_count(pattern.get("n")):
            return False
        named, counts = pattern.get("stages"), pattern.get("counts")
        if not isinstance(named, list) or not isinstance(counts, dict) or not all(map(is_count, counts.values())):
            return False
        if not all(isinstance(name, str) for name in named) or not set(named) <= set(stages):
            return False
        if len(set(named)) < len(named) or sum(counts.values()) != pattern["n"] or pattern["n"] > 2**40:
            return False
        if any(len(key) != len(named) or set(key) - {"0", "1"} for key in counts):
            return False
    return True
