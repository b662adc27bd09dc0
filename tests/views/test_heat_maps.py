"""Heat maps of stages against each other, of classes, and of what is taken for what."""

import numpy as np
import pandas as pd
import pytest
from measured import STAGES, rows_of, table_of

from lwexplain.probes.base import pair_of
from lwexplain.views import contents
from lwexplain.views.sample_depth import confusion_figure, sample_depth_figure, sample_depth_source
from lwexplain.views.similarity import similarity_figure, similarity_metrics
from lwexplain.views.single_classes import class_figure, closest_pairs_table, of_a_pair, of_one_class

CLASSES = ["cat", "dog", "cow"]
SIMILAR = np.array([[1, 0.5, 0.1], [0.5, 1, 0.8], [0.1, 0.8, 1]])


def similarity_rows(metric="cka_linear"):
    return [
        row
        for other, column in zip(STAGES, SIMILAR.T, strict=True)
        for row in rows_of(metric, column, of_class=other, half=0.05)
    ]


def pair_rows(metric="fisher_ratio"):
    pairs = [("cat", "dog", [0.1, 3, 2]), ("cat", "cow", [0.3, 1, 4]), ("dog", "cow", [0.2, 2, 6])]
    return [row for a, b, values in pairs for row in rows_of(metric, values, of_class=pair_of(a, b))]


def class_rows(metric="knn_accuracy", split="val", classes=CLASSES):
    return [
        row
        for k, name in enumerate(classes)
        for row in rows_of(metric, np.array([0.2, 0.5, 0.9]) + k / 100, of_class=name, split=split)
    ]


def test_similarity_is_a_map_of_every_stage_against_every_other():
    figure = similarity_figure(table_of(similarity_rows()[::-1]))
    (cells,) = figure.data
    np.testing.assert_array_equal(np.array(cells.z, dtype=float), SIMILAR)
    assert list(figure.layout.xaxis.ticktext) == list(figure.layout.yaxis.ticktext) == STAGES
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # shallow stages on top
    assert "stem and middle: 0.5000<br>95 % interval 0.4500 to 0.5500" in cells.customdata[0][1]


def test_similarity_that_is_undefined_or_absent_is_said():
    rows = similarity_rows()
    rows[1] |= {"value": float("nan"), "low": None, "high": None, "note": "undefined: the features do not vary"}
    figure = similarity_figure(table_of(rows))
    assert np.isnan(np.array(figure.data[0].z, dtype=float)).sum() == 1
    assert "do not vary" in str(figure.data[0].customdata)
    assert "No RBF CKA was measured" in similarity_figure(table_of(rows), "cka_rbf").layout.annotations[0].text
    assert similarity_metrics(table_of(rows)) == ["cka_linear"]


def test_a_map_of_many_stages_names_some_of_them():
    stages = [f"layer{k}" for k in range(60)]
    rows = [row for name in stages for row in rows_of("cka_rbf", np.full(60, 0.5), of_class=name, stages=stages)]
    figure = similarity_figure(table_of(rows, stages=stages), "cka_rbf")
    assert len(figure.layout.xaxis.ticktext) <= 20
    assert figure.layout.height < 800


def test_classes_are_rows_and_a_menu_changes_the_measure():
    table = table_of(
        class_rows("silhouette"), class_rows(), class_rows(split="test"), rows_of("knn_accuracy", [1, 1, 1])
    )
    figure = class_figure(table)
    titles = [button.label for button in figure.layout.updatemenus[0].buttons]
    assert titles == ["nearest neighbours, val", "nearest neighbours, test", "silhouette, val"]
    assert [trace.visible for trace in figure.data] == [True, False, False]
    assert list(figure.layout.yaxis.ticktext) == CLASSES
    np.testing.assert_allclose(np.array(figure.data[0].z, dtype=float)[1], [0.21, 0.51, 0.91])
    assert "class dog<br>middle: 0.51" in figure.data[0].customdata[1][1]


def test_of_many_classes_the_worst_are_shown():
    classes = [f"class {k}" for k in range(40)]
    figure = class_figure(
        table_of(class_rows(classes=classes), class_rows("davies_bouldin", classes=classes), classes=classes)
    )
    assert [len(trace.z) for trace in figure.data] == [20, 20]
    first, second = figure.layout.updatemenus[0].buttons
    assert "the 20 worst of 40 classes" in first.label
    assert first.args[1]["yaxis.ticktext"][0] == "class 0"  # the lowest accuracy
    assert second.args[1]["yaxis.ticktext"][0] == "class 39"  # the highest Davies-Bouldin index


def rows_and_axis(figure, number):
    """Rows of the trace that a button of the menu shows, and the range and names of the axis that it sets."""
    change = figure.layout.updatemenus[0].buttons[number].args[1]
    return list(figure.data[number].y), list(change["yaxis.range"]), list(change["yaxis.ticktext"])


@pytest.mark.parametrize("first", ["val", "test"])
def test_a_class_that_one_split_lacks_has_an_empty_row_there(first):
    others = {"val": "test", "test": "val"}[first]
    table = table_of(class_rows(split=first, classes=CLASSES[::2]), class_rows(split=others))
    figure = class_figure(table)
    names = {figure.layout.updatemenus[0].buttons[k].label.split(", ")[1]: rows_and_axis(figure, k) for k in (0, 1)}
    for rows, axis, _ in names.values():
        assert (rows, axis) == ([0, 1, 2], [2.5, -0.5])
    assert names[first][2] == ["cat", "dog (not measured)", "cow"]
    assert names[others][2] == CLASSES


@pytest.mark.parametrize(("few", "many"), [(3, 40), (40, 3), (21, 20), (1, 2)])
def test_every_measure_of_the_menu_brings_the_axis_of_its_rows(few, many):
    classes = [f"class {k}" for k in range(max(few, many))]
    parts = [class_rows(split="val", classes=classes[:few]), class_rows(split="test", classes=classes[:many])]
    figure = class_figure(table_of(*parts, classes=classes))
    for number, trace in enumerate(figure.data):
        rows, (low, high), names = rows_and_axis(figure, number)
        assert (low, high) == (len(trace.z) - 0.5, -0.5)
        assert len(rows) == len(names) == len(trace.z)
    assert list(figure.layout.yaxis.range) == rows_and_axis(figure, 0)[1]


def test_without_measures_of_classes_there_is_no_map():
    assert class_figure(table_of(rows_of("knn_accuracy", [0, 1, 1]), similarity_rows())) is None


def test_a_stage_that_is_called_as_a_class_is_no_class():
    table = table_of(similarity_rows(), classes=["stem", "end"])
    assert not of_one_class(table).any()


def test_the_closest_pairs_of_each_stage_come_worst_first():
    found = closest_pairs_table(table_of(pair_rows()), most=2)
    assert found.rows.to_numpy().tolist() == [
        ["stem", "cat | dog  (0.1)", "dog | cow  (0.2)"],
        ["middle", "cat | cow  (1)", "dog | cow  (2)"],
        ["end", "cat | dog  (2)", "cat | cow  (4)"],
    ]
    assert found.metric == "fisher_ratio"
    assert closest_pairs_table(table_of(pair_rows("davies_bouldin"))).rows.iloc[0, 1] == "cat | cow  (0.3)"
    assert closest_pairs_table(table_of(class_rows())) is None


def test_pairs_are_known_whatever_classes_are_called():
    rows = rows_of("fisher_ratio", [1, 2, 3], of_class="a | b | c") + rows_of("x", [1, 2, 3], of_class="a | d")
    assert of_a_pair(table_of(rows, classes=["a | b", "c", "a"])).tolist() == [True] * 3 + [False] * 3


def test_what_has_a_map_is_not_measured_further():
    table = table_of(
        similarity_rows(),
        pair_rows(),
        class_rows(),
        rows_of("nc1", [3, 2, 1]),
        rows_of("nc1", [3, 2, 1], split="train"),
        rows_of("beyond_border", [0, 0, 1], split="none"),
        rows_of("only_on_train", [1, 2, 3], split="train"),
        rows_of("head_first_correct", [0.5, 0.2, 0.1]),
        rows_of("linear_probe_first_correct", [0.5, 0.2, 0.1]),  # the figure shows those of the heads
        rows_of("nc1", [1, 2, 3], of_class="cattle"),
    )
    found = contents.further_measurements(table)
    assert found[["metric", "split", "class"]].to_numpy().tolist() == [
        ["only on train", "train", "all"],
        ["linear probe: first right here", "val", "all"],
        ["NC1 within-class spread", "val", "cattle"],
    ]


def test_confusions_are_counts_and_errors_have_the_colour():
    counts = np.array([[8, 2, 0], [0, 9, 1], [0, 0, 0]])
    figure = confusion_figure(counts, CLASSES)
    wrong, right = (np.array(trace.z, dtype=float) for trace in figure.data)
    assert np.isnan(wrong.diagonal()).all()
    assert (wrong[0, 1], wrong[1, 2]) == (0.2, 0.1)
    np.testing.assert_allclose(right.diagonal(), [0.8, 0.9, np.nan])
    assert np.isnan(wrong[2]).all(), "no cow was seen, so that none was taken for something else"
    assert list(figure.layout.yaxis.ticktext) == ["cat", "dog", "cow (no samples)"]
    assert list(figure.layout.xaxis.ticktext) == CLASSES
    assert figure.data[0].zmax == 0.2
    assert figure.data[0].text[0][1] == "2"
    assert "2 of class cat taken for dog<br>20.0% of the class" in figure.data[0].customdata[0][1]


def test_of_many_classes_the_most_confused_are_shown():
    counts = np.diag(np.full(30, 5))
    counts[29, 3] = 7
    figure = confusion_figure(counts, [f"class {k}" for k in range(30)])
    assert {"class 3", "class 29"} < set(figure.layout.xaxis.ticktext)
    assert len(figure.data[0].z) == 20
    assert "the 20 of 30 classes with most errors" in figure.layout.title.text


@pytest.mark.parametrize("counts", [np.array([[4]]), np.zeros((2, 2), dtype=int)])
def test_confusions_without_errors_are_drawn(counts):
    figure = confusion_figure(counts, ["one", "two"][: len(counts)])
    assert figure.data[0].zmax > 0


def samples():
    return table_of(
        rows_of("linear_probe_first_correct", [0.6, 0.2, 0.1]),
        rows_of("linear_probe_cumulative_correct", [0.6, 0.8, 0.9]),
        rows_of("linear_probe_right_early_wrong_late", [0.0, 0.1, 0.05]),
        rows_of("linear_probe_accuracy", [0.6, 0.7, 0.85]),
    )


def test_samples_are_counted_where_they_are_first_right_and_never():
    figure = sample_depth_figure(samples(), "linear_probe", depth=2)
    bars = figure.data[0]
    np.testing.assert_allclose(bars.y, [0.6, 0.2, 0.1, 0.1])
    assert list(figure.layout.xaxis.ticktext) == ["1", "2", "3", "never"]
    curves = {trace.name: list(trace.y) for trace in figure.data[1:]}
    assert curves["right before, wrong here"] == [0.0, 0.1, 0.05]
    assert curves["right here"] == [0.6, 0.7, 0.85]
    assert len(figure.layout.shapes) == 2


def test_the_depths_of_samples_are_those_of_the_heads_where_there_are_any():
    assert sample_depth_source(samples()) == "linear_probe"
    assert sample_depth_source(pd.concat([samples(), table_of(rows_of("head_first_correct", [1, 0, 0]))])) == "head"
    only_last = table_of(rows_of("head_first_correct", [1, 0, 0])[-1:])
    assert sample_depth_source(pd.concat([samples(), only_last])) == "linear_probe", "bp has one head, at the end"
    assert sample_depth_source(samples(), "test") is None
    assert "No depth of samples" in sample_depth_figure(samples(), "head").layout.annotations[0].text
