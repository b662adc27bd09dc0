"""Depths of samples against counts by hand and the definitions written out."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import wilson_interval
from lwexplain.probes.sample_depth import confusion, depth_rows, sample_depths
from lwexplain.results import METRIC_COLUMNS, PREDICTION_COLUMNS, metrics_frame
from lwexplain.table import TableInfo

STAGES = ["stem", "block1", "block2"]


def predictions(predicted, labels, source="head", split="val"):
    """``predicted`` (N, S) at depths 0, 2, 4 ... as the table that an analysis writes."""
    n, stages = predicted.shape
    parts = [
        pd.DataFrame(
            {
                "split": split,
                "sample": np.arange(n),
                "stage": STAGES[at],
                "depth": 2 * at,
                "source": source,
                "label": labels,
                "predicted": predicted[:, at],
            }
        )
        for at in range(stages)
    ]
    return pd.concat(parts, ignore_index=True)[PREDICTION_COLUMNS]


WORKED = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 2, 0], [0, 0, 2], [1, 1, 2], [0, 2, 2]])
LABELS = np.array([0, 0, 0, 0, 0, 1, 1])


def test_a_worked_example():
    table = sample_depths(predictions(WORKED, LABELS), source="head", split="val")
    assert table["sample"].tolist() == list(range(7))
    assert table["label"].tolist() == LABELS.tolist()
    assert table["first_correct"].fillna(-1).tolist() == [0, 2, 0, 4, 0, 0, -1]
    assert table["settled"].tolist() == [0, 2, 4, 4, 4, 4, 2]
    assert table["right_at_end"].tolist() == [True, True, True, True, False, False, False]
    assert table["right_early_wrong_late"].tolist() == [False, False, False, False, True, True, False]


def test_rows_of_the_worked_example():
    rows = depth_rows(predictions(WORKED, LABELS), STAGES, 5)
    frame = metrics_frame(rows, TableInfo())
    assert list(frame.columns) == METRIC_COLUMNS
    values = {(row["metric"], row["stage"]): round(row["value"] * 7) for row in rows}
    for metric, counts in (
        ("first_correct", (4, 1, 1)),
        ("cumulative_correct", (4, 5, 6)),
        ("right_early_wrong_late", (0, 1, 2)),
    ):
        assert tuple(values[f"head_{metric}", stage] for stage in STAGES) == counts
    for row in rows:
        assert (row["split"], row["n"], row["seed"], row["probe"]) == ("val", 7, 5, "sample_depth")
        assert row["depth"] == 2 * STAGES.index(row["stage"])
        assert (row["low"], row["high"]) == wilson_interval(row["value"], 7)


@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 2**32 - 1), st.booleans())
def test_definitions_hold_in_any_order_of_rows(stages, n, seed, categorical):
    rng = np.random.default_rng(seed)
    predicted, labels = rng.integers(0, 3, (n, stages)), rng.integers(0, 3, n)
    other = predictions(rng.integers(0, 3, (n, stages)), labels, "linear_probe", "test")
    frame = pd.concat([predictions(predicted, labels), other]).sample(frac=1, random_state=seed % 1000)
    if categorical:
        frame = frame.astype(dict.fromkeys(("split", "stage", "source"), "category"))
    table = sample_depths(frame, source="head", split="val")
    for place in range(n):
        row, right = table.iloc[place], predicted[place] == labels[place]
        assert row["sample"] == place
        if right.any():
            assert row["first_correct"] == 2 * list(right).index(True)
        else:
            assert pd.isna(row["first_correct"])
        settled = row["settled"] // 2
        assert (predicted[place, settled:] == predicted[place, -1]).all()
        assert settled == 0 or predicted[place, settled - 1] != predicted[place, -1]
        assert row["right_early_wrong_late"] == (right[:-1].any() and not right[-1])
    rows = depth_rows(frame, STAGES, 0)
    assert len(rows) == 2 * 3 * stages
    for at in range(stages):
        matrix = confusion(frame, STAGES[at], source="head", split="val", classes=["a", "b", "c"])
        np.testing.assert_array_equal(matrix, confusion_matrix(labels, predicted[:, at], labels=[0, 1, 2]))
        got = {row["metric"]: row["value"] for row in rows if row["stage"] == STAGES[at] and row["split"] == "val"}
        right = predicted == labels[:, None]
        earlier, here = right[:, :at].any(1), right[:, at]
        assert got["head_first_correct"] == pytest.approx(np.mean(here & ~earlier))
        assert got["head_cumulative_correct"] == pytest.approx(np.mean(here | earlier))
        assert got["head_right_early_wrong_late"] == pytest.approx(np.mean(earlier & ~here))


def test_what_is_not_there_is_said():
    frame = predictions(WORKED, LABELS)
    with pytest.raises(ProbeError, match="no predictions of 'linear_probe' on split 'val'"):
        sample_depths(frame, source="linear_probe", split="val")
    with pytest.raises(ProbeError, match="at stage 'nowhere'"):
        confusion(frame, "nowhere", source="head", split="val", classes=["a", "b", "c"])
    with pytest.raises(ProbeError, match="name classes 0 to 2, but there are 2 classes"):
        confusion(frame, "block2", source="head", split="val", classes=["a", "b"])
    with pytest.raises(ProbeError, match="not every sample has one of each stage"):
        sample_depths(frame.drop(index=3), source="head", split="val")
    assert depth_rows(frame.iloc[:0], STAGES, 0) == []


def test_no_torch_is_needed():
    code = "import sys, lwexplain.probes.sample_depth; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
