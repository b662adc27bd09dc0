"""Small charts over depth: grouped by family, each with a scale on which its curve can be read."""

import math

import pandas as pd
import pytest
from measured import STAGES, rows_of, table_of

from lwexplain.metrics import FAMILIES
from lwexplain.views.separability import panel_families, panel_metrics, separability_figure

ACCOUNTED = ["head_first_correct", "head_cumulative_correct", "linear_probe_right_early_wrong_late"]


def line(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_measures_stand_in_families_and_unknown_ones_last():
    table = table_of(
        rows_of("mine", [1, 2, 3]),
        rows_of("nc1", [3, 2, 1]),
        rows_of("receptive_field", [3, 5, 9], split="none"),
        rows_of("silhouette", [0.1, 0.2, 0.3]),
        rows_of("separability_index", [0.1, 0.2, 0.3]),
        rows_of("flops", [1, 2, 3], split="none"),
    )
    assert panel_families(table) == {
        FAMILIES["separability"]: ["separability_index", "silhouette"],
        FAMILIES["collapse"]: ["nc1"],
        FAMILIES["geometry"]: ["receptive_field"],
        FAMILIES["other"]: ["mine"],
    }


@pytest.mark.parametrize("metric", ["knn_accuracy", "latency_seconds", "cka_linear", *ACCOUNTED])
def test_what_has_a_figure_of_its_own_is_no_small_chart(metric):
    assert panel_metrics(table_of(rows_of(metric, [0.1, 0.2, 0.3]))) == []


def test_a_chart_says_which_direction_is_better():
    metrics = ("silhouette", "nc1", "saturation", "mine")
    figure = separability_figure(table_of(*(rows_of(metric, [0.1, 0.2, 0.3]) for metric in metrics)))
    said = [annotation.text for annotation in figure.layout.annotations]
    expected = ("higher is better", "lower is better", "no better direction<", "no better direction stated")
    assert all(part in text for part, text in zip(expected, said, strict=True))


def test_the_train_split_is_a_second_line():
    table = table_of(rows_of("nc1", [3, 2, 1], half=0.1), rows_of("nc1", [2, 1, 0.5], split="train", half=0.1))
    figure = separability_figure(table)
    assert list(line(figure, "nc1").y) == [3, 2, 1]
    assert list(line(figure, "nc1, train").y) == [2, 1, 0.5]
    assert len(figure.layout.annotations) == 1


def test_one_wide_interval_does_not_flatten_the_curve():
    rows = rows_of("fisher_ratio", [1, 2, 3], half=0.1)
    rows[0] |= {"low": -500.0, "high": 500.0}
    figure = separability_figure(table_of(rows))
    low, high = figure.layout.yaxis.range
    assert 0 < 1 - low < 2
    assert 0 < high - 3 < 2
    drawn = line(figure, "fisher_ratio")
    assert drawn.error_y.arrayminus[0] <= 1 - low
    assert "interval -500 to 500" in drawn.customdata[0]


def test_powers_of_ten_get_a_logarithmic_axis():
    figure = separability_figure(table_of(rows_of("separation_law", [900, 30, 1]), rows_of("gdv", [-0.001, -0.1, -1])))
    assert (figure.layout.yaxis.type, figure.layout.yaxis2.type) == ("log", "linear")
    low, high = figure.layout.yaxis.range
    assert low < math.log10(1) < math.log10(900) < high
    assert "log scale" in figure.layout.annotations[0].text


@pytest.mark.parametrize("values", [[0.5] * 3, [0.0] * 3, [float("inf")] * 3, [float("nan"), 0.5, float("nan")]])
def test_values_without_a_range_are_drawn(values):
    low, high = separability_figure(table_of(rows_of("silhouette", values))).layout.yaxis.range
    assert low < high


def test_many_measures_stay_apart():
    table = table_of(*(rows_of(f"measure_{i}", [1, 2, 3]) for i in range(26)))
    figure = separability_figure(table)
    assert len(figure.data) == 26
    assert figure.layout.height / 7 > 150
    assert pd.Series([trace.xaxis for trace in figure.data]).is_unique
    assert len(STAGES) == 3
