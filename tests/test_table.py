"""What is known of a long table as a whole is read and written in one place, and so are the usual questions."""

import ast
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_tables import table_of

import lwexplain
from lwexplain.errors import AdviceError
from lwexplain.results import METRIC_COLUMNS, metrics_frame
from lwexplain.results.checks import check_outline
from lwexplain.run import Run
from lwexplain.run.binary_files import read_table, write_table
from lwexplain.table import COLUMNS, TableInfo, overall, per_depth, raw_info, rows_of, value_at, without_info

PACKAGE = Path(lwexplain.__file__).parent
ALL = TableInfo(
    stages=["stem", "end"],
    classes=["cat", "dog"],
    strategy="greedy",
    input_shape=[3, 8, 8],
    built_in=["head", "cost"],
    chance=0.5,
    forward="float32 forward pass",
    data_notes=["2 images were left out"],
    notes=["the network's own output is not measured"],
    patterns={"head": {"stages": ["stem"], "n": 2, "counts": {"0": 1, "1": 1}}},
    metrics={"m": {"title": "a measure", "better": "higher", "family": "other"}},
    failures=[{"probe": "broken", "stage": None, "error": "ZeroDivisionError: on purpose"}],
)


def row(depth, value, **changes):
    about = {"stage": ["stem", "end"][depth - 1], "depth": depth, "split": "val", "metric": "m", "class": None}
    rest = {"low": None, "high": None, "n": 4, "seed": 0, "probe": "p", "note": ""}
    return about | {"value": value} | rest | changes


# ---------------------------------------------------------------------- what is known of the whole


def test_what_is_put_on_a_table_is_read_from_it():
    table = metrics_frame([row(1, 0.5)], ALL)
    assert TableInfo.of(table) == ALL
    check_outline(table, METRIC_COLUMNS)


def test_it_is_kept_in_the_file(tmp_path):
    run = Run.create(tmp_path / "run", "")
    write_table(run.files, "table.parquet", metrics_frame([row(1, 0.5)], ALL))
    assert TableInfo.of(read_table(run.files, "table.parquet")) == ALL


def test_copies_of_a_table_share_the_mappings_and_not_the_lists():
    table = metrics_frame([row(1, 0.5)], ALL)
    copy = table.copy()
    assert copy.attrs["patterns"] is table.attrs["patterns"]
    assert copy.attrs["stages"] is not table.attrs["stages"]


def test_a_bare_frame_says_nothing():
    assert TableInfo.of(pd.DataFrame()) == TableInfo()
    assert TableInfo().put_on(pd.DataFrame()).attrs == {
        "stages": [],
        "classes": [],
        "strategy": None,
        "forward": "",
        "data_notes": [],
        "notes": [],
        "metrics": {},
        "failures": [],
    }


@pytest.mark.parametrize("odd", [7, "text", ["a", 1], {"a": 1}, None, 0.5, True])
@pytest.mark.parametrize("name", [item.name for item in fields(TableInfo)])
def test_a_field_of_another_kind_counts_as_missing_and_the_others_stay(name, odd):
    table = metrics_frame([row(1, 0.5)], ALL)
    table.attrs[name] = odd
    info = TableInfo.of(table)
    wanted = type(getattr(ALL, name))
    found = getattr(info, name)
    assert found == getattr(TableInfo(), name) or isinstance(found, wanted)
    assert replace(info, **{name: getattr(ALL, name)}) == ALL


def test_failures_of_any_form_are_read_as_probe_stage_and_error():
    table = pd.DataFrame()
    table.attrs["failures"] = ["broken", {"probe": "p", "stage": "end"}, {"error": 3, "more": 1}]
    assert TableInfo.of(table).failures == [
        {"probe": "broken", "stage": None, "error": None},
        {"probe": "p", "stage": "end", "error": None},
        {"probe": None, "stage": None, "error": "3"},
    ]


def test_the_check_of_a_strangers_table_sees_what_stands_there():
    table = metrics_frame([row(1, 0.5)], ALL)
    table.attrs["stages"] = "stem"
    assert raw_info(table)["stages"] == "stem"
    with pytest.raises(ValueError, match="it does not name its stages"):
        check_outline(table, METRIC_COLUMNS)


def test_a_table_without_names_of_stages_or_classes_gives_no_advice():
    for lacking in ({"stages": []}, {"classes": []}):
        table = table_of([0.5, 0.9])
        replace(TableInfo.of(table), **lacking).put_on(table)
        with pytest.raises(AdviceError, match=r"the table .*; pass the run, or the table as lw\.analyze"):
            lwexplain.recommend(table)


def test_every_field_and_every_column_is_described():
    classes = [node for node in ast.parse((PACKAGE / "table.py").read_text()).body if isinstance(node, ast.ClassDef)]
    (described,) = [node for node in classes if node.name == "TableInfo"]
    names = [item.name for item in fields(TableInfo)]
    for node, after in zip(described.body, described.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign):
            assert node.target.id == names.pop(0)
            assert isinstance(after, ast.Expr), f"{node.target.id} has no docstring"
    assert names == []
    assert list(COLUMNS) == METRIC_COLUMNS
    assert all(COLUMNS.values())


def test_the_table_loads_nothing_of_the_floors_above():
    code = "import sys, lwexplain.table; print(*(name for name in sys.modules if name.startswith('lwexplain.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) == {"lwexplain.version", "lwexplain.table"}


def test_nobody_else_touches_what_the_frame_carries():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "attrs":
                found.setdefault(str(path.relative_to(PACKAGE)), []).append(node.lineno)
    assert list(found) == ["table.py"]


# ---------------------------------------------------------------------- questions


@pytest.fixture
def table():
    rows = [
        row(2, 0.9),
        row(1, 0.5),
        row(1, 0.4, split="test"),
        row(2, np.nan, split="test"),
        row(1, 0.3, **{"class": "cat"}),
        row(1, 10.0, metric="parameters", split="none"),
    ]
    return metrics_frame(rows, ALL)


def test_rows_of_all_classes_together_leave_single_ones_out(table):
    assert list(overall(table)["value"].dropna()) == [0.9, 0.5, 0.4, 10.0]


def test_the_rows_of_a_metric_come_by_depth_and_those_with_a_value_once_a_depth(table):
    assert list(rows_of(table, "m", "val")["value"]) == [0.5, 0.9]
    assert list(per_depth(table, "m", "val")["depth"]) == [1, 2]
    assert list(rows_of(table, "m", "test")["depth"]) == [1, 2]
    assert list(per_depth(table, "m", "test")["depth"]) == [1]
    twice = pd.concat([table, table.assign(value=0.0)])
    assert list(per_depth(twice, "m", "val")["value"]) == [0.5, 0.9]
    assert per_depth(table, "nothing", "val").empty


def test_the_value_at_a_depth_is_a_number_or_none(table):
    assert value_at(table, "m", "val", 2) == 0.9
    assert value_at(table, "parameters", "none", 1) == 10.0
    assert value_at(table, "m", "test", 2) is None
    assert value_at(table, "m", "val", 3) is None


def test_answers_do_not_carry_what_is_known_of_the_whole_and_the_table_keeps_it(table):
    for answer in (without_info(table), overall(table), rows_of(table, "m", "val"), per_depth(table, "m", "val")):
        assert TableInfo.of(answer) == TableInfo()
    assert TableInfo.of(table) == ALL
    assert list(without_info(table)["value"].dropna()) == list(table["value"].dropna())
