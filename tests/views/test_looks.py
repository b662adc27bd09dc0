"""What a monitor saw: drawn look by look, and said only as far as the intervals carry it."""

import numpy as np
import pandas as pd
import pytest

from lwexplain.results.looks import LOOK_COLUMNS, looks_table, troubles_of_last_look
from lwexplain.views.looks import drift_figure, looks_depth_figure, looks_epochs_figure
from lwexplain.views.looks_in_words import first_stage_with_the_answer, looks_in_words

STAGES = ["stem", "layer1", "layer2"]


def look(epoch, accuracies, drifts=(), half=0.05, stages=STAGES):
    """The events of one look."""
    lines = []
    for place, value in enumerate(accuracies):
        line = {"event": "look", "stage": stages[place], "depth": place + 1, "epoch": epoch, "n": 100, "images": 200}
        for metric in ("linear_probe_accuracy", "ncm_accuracy", "separability_index"):
            line |= {metric: value, f"{metric}_low": value - half, f"{metric}_high": value + half}
        line["effective_rank"] = 4.0 + place
        if drifts:
            line |= {"drift": drifts[place], "cka_linear": 1 - drifts[place]}
        lines.append(line)
    return lines


THREE = [
    *look(1, [0.3, 0.5, 0.7]),
    *look(2, [0.4, 0.78, 0.8], [0.1, 0.2, 0.4]),
    *look(3, [0.4, 0.86, 0.9], [0, 0.1, 0.3]),
]


def test_the_table_has_a_row_for_each_epoch_stage_and_metric():
    table = looks_table(THREE)
    assert list(table.columns) == LOOK_COLUMNS
    assert len(table) == 3 * (4 + 6 + 6)
    row = table[(table["epoch"] == 2) & (table["stage"] == "layer1") & (table["metric"] == "ncm_accuracy")].iloc[0]
    assert (row["value"], row["low"], row["high"], row["n"]) == (0.78, 0.73, pytest.approx(0.83), 100)
    rank = table[table["metric"] == "effective_rank"].iloc[0]
    assert rank["n"] == 200
    assert np.isnan(rank["low"])
    assert looks_table([]).empty
    assert looks_table([{"event": "epoch", "epoch": 1, "val_accuracy": 0.5}, {"event": "look", "epoch": 3}]).empty


def test_epochs_that_the_training_went_back_behind_are_gone():
    table = looks_table([*THREE, *look(2, [0.1, 0.2, 0.3])])
    assert list(table["epoch"].unique()) == [1, 2]
    assert table[(table["epoch"] == 2) & (table["metric"] == "linear_probe_accuracy")]["value"].tolist() == [
        0.1,
        0.2,
        0.3,
    ]
    again = looks_table([*look(1, [0.3, 0.5, 0.7]), *look(1, [0.6, 0.6, 0.6])])
    assert set(again[again["metric"] == "ncm_accuracy"]["value"]) == {0.6}


def test_only_the_last_look_s_troubles_count():
    trouble = {"event": "look", "stage": "stem", "depth": 1, "epoch": 4, "reason": "features are NaN"}
    assert troubles_of_last_look([*THREE, trouble]) == {"stem": "features are NaN"}
    assert troubles_of_last_look([{**trouble, "epoch": 0}, *THREE]) == {}
    assert troubles_of_last_look([]) == {}


def test_the_answer_is_where_the_interval_of_the_best_stage_reaches():
    rows = looks_table(look(1, [0.3, 0.87, 0.9]))
    rows = rows[rows["metric"] == "linear_probe_accuracy"]
    assert first_stage_with_the_answer(rows) == "layer1"
    text = " ".join(looks_in_words(looks_table(THREE), chance=0.1))
    assert "Epoch 3: the answer is there at layer1. Its linear probe (0.860)" in text
    assert "layer2 (0.900, 95 % interval 0.850 to 0.950), as in every look since epoch 2." in text
    assert "layer2 changed most (drift 0.30) and stem least (0.00)" in text


def test_a_look_in_between_without_the_answer_breaks_the_row():
    events = [*look(1, [0.3, 0.88, 0.9]), *look(2, [0.3, 0.5, 0.9]), *look(3, [0.3, 0.88, 0.9])]
    text = looks_in_words(looks_table(events))[0]
    assert "layer1" in text
    assert "since" not in text


def test_where_only_the_last_stage_or_no_stage_reads_the_answer_that_is_said():
    assert "most at the last stage, layer2" in looks_in_words(looks_table(look(1, [0.3, 0.5, 0.9])))[0]
    text = looks_in_words(looks_table(look(1, [0.3, 0.9, 0.7])))[0]
    assert "most at layer1 (0.900" in text
    assert "no earlier stage" in text
    assert "no stage is surely better" in looks_in_words(looks_table(look(1, [0.1, 0.12, 0.13])), chance=0.1)[0]
    assert looks_in_words(looks_table([])) == []


def test_figures_draw_every_stage_and_look():
    table = looks_table(THREE)
    depth = looks_depth_figure(table, chance=0.1)
    assert [trace.name for trace in depth.data if trace.showlegend is not False] == [
        "earlier looks, pale = early",
        "linear probe, epoch 3",
        "nearest class mean, epoch 3",
    ]
    assert depth.data[-2].error_y.array == pytest.approx([0.05] * 3)
    assert list(depth.layout.xaxis.ticktext) == STAGES
    epochs = looks_epochs_figure(table, "effective_rank")
    assert [trace.name for trace in epochs.data] == STAGES
    assert all(list(trace.x) == [1, 2, 3] for trace in epochs.data)
    drift = drift_figure(table)
    assert drift.data[0].z == pytest.approx(np.array([[0.1, 0.0], [0.2, 0.1], [0.4, 0.3]]))


def test_figures_say_what_is_missing_and_escape_foreign_names():
    empty = looks_table([])
    for figure in (looks_depth_figure(empty), looks_epochs_figure(empty, "ncm_accuracy"), drift_figure(empty)):
        assert figure.layout.annotations
    odd = looks_table(look(1, [0.3, 0.5], stages=["<b>bold</b>", "a" * 300]))
    for figure in (looks_depth_figure(odd), looks_epochs_figure(odd, "ncm_accuracy")):
        assert "<b>bold" not in figure.to_json().replace("\\u003c", "<")
        assert "a" * 100 not in figure.to_json()


def test_many_stages_and_epochs_stay_readable():
    stages = [f"blocks.{k}" for k in range(40)]
    events = [line for e in range(60) for line in look(e, [0.5] * 40, [0.1] * 40 if e else (), stages=stages)]
    table = looks_table(events)
    assert len(looks_depth_figure(table).data) <= 8
    assert drift_figure(table).layout.height <= 800
    assert isinstance(table["epoch"].max(), (int, np.integer))
    assert pd.api.types.is_float_dtype(table["value"])
