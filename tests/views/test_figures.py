"""Figures carry the numbers of the table, and text from strangers stays text."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from run_factory import ACCURACY, CLASSES, STAGES, N, make_run

from lwexplain.errors import RunError
from lwexplain.results import AttributionSet, read_attributions, read_embedding, read_metrics
from lwexplain.views import contents
from lwexplain.views.costs import cost_figure
from lwexplain.views.depth_curve import accuracy_metrics, comparison_figure, depth_figure
from lwexplain.views.embedding import comparable, embedding_figure, embedding_overview, fixed_range
from lwexplain.views.gallery import Shown, attribution_grid_html, gallery_html, invalid_reasons
from lwexplain.views.pictures import hatched, overlay
from lwexplain.views.separability import panel_metrics, separability_figure
from lwexplain.views.theme import CLASS_COLOURS, class_colour, class_symbol, label
from lwexplain.views.training_curves import training_figure, training_table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("views") / "greedy")


@pytest.fixture(scope="module")
def table(run):
    return read_metrics(run)


def line(figure, name):
    return next(trace for trace in figure.data if trace.name == name)


def test_the_depth_curve_draws_every_accuracy_with_its_interval(table):
    figure = depth_figure(table)
    head = line(figure, "trained head")
    assert list(head.x) == [1, 2, 3, 4, 5, 6]
    assert np.allclose(head.y, ACCURACY, atol=0.02)
    assert "block2" in head.text[2]
    assert f"n = {N}" in head.text[0]
    assert "95 % interval" in head.text[0]
    band = line(figure, "trained head, 95 % interval")
    assert max(band.y) > max(head.y)
    assert {"linear probe", "nearest neighbours"} <= {trace.name for trace in figure.data}


def test_the_depth_curve_marks_the_advice_and_the_tolerance(table):
    figure = depth_figure(table, recommendation=SimpleNamespace(depth=4, source="head"), tolerance=0.01)
    star = line(figure, "recommended depth")
    assert list(star.x) == [4]
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert band.y1 - band.y0 == pytest.approx(0.01)
    assert band.y1 == pytest.approx(max(line(figure, "trained head").y))


def test_no_signal_marks_no_depth(table):
    figure = depth_figure(table, recommendation=SimpleNamespace(depth=None, source="head"), tolerance=0.01)
    assert "recommended depth" not in {trace.name for trace in figure.data}


def test_without_accuracies_the_figure_says_so(table):
    bare = table[table["metric"] == "silhouette"]
    assert accuracy_metrics(bare) == []
    assert "No accuracy" in depth_figure(bare).layout.annotations[0].text


def test_a_comparison_draws_one_curve_a_run(table):
    figure = comparison_figure({"a": table, "b": table}, metric="knn_accuracy")
    assert [trace.name for trace in figure.data if trace.mode == "lines+markers"] == ["a", "b"]
    decided = comparison_figure({"a": table}, recommendations={"a": SimpleNamespace(depth=3, source="linear_probe")})
    assert line(decided, "a (linear probe)") is not None


def test_the_panel_shows_custom_metrics_and_says_what_is_better(table):
    metrics = panel_metrics(table)
    assert "my_metric" in metrics
    assert not any(metric.endswith("_accuracy") or metric in ("flops", "parameters") for metric in metrics)
    titles = {
        annotation.text.split("</b>")[0]: annotation.text
        for annotation in separability_figure(table).layout.annotations
    }
    assert "higher is better" in titles["<b>silhouette"]
    assert "lower is better" in titles["<b>Davies-Bouldin"]
    assert "no better direction stated" in titles["<b>my metric"]


def test_costs_are_the_table_s(table):
    figure = cost_figure(table, depth=3)
    parameters = line(figure, "parameters")
    assert list(parameters.y)[:2] == [1000, 6000]
    assert parameters.marker.color[2] != parameters.marker.color[1]
    assert line(figure, "latency (ms)").y[0] == pytest.approx(0.4)
    assert line(figure, "memory (MiB)").y[0] == pytest.approx((4 * 1000 + 50_000) / 2**20)


def test_embedding_points_carry_their_sample_and_axes_do_not_move(run):
    frame = read_embedding(run, "pca")
    first, last = (embedding_figure(frame, stage, CLASSES) for stage in (STAGES[0], STAGES[-1]))
    assert first.layout.xaxis.range == last.layout.xaxis.range
    assert first.layout.yaxis.scaleanchor == "x"
    assert len(first.data) == len(CLASSES)
    carried = sorted(sample for trace in first.data for sample in trace.customdata)
    assert carried == list(range(N))
    trace = first.data[4]
    rows = comparable(frame[frame["stage"] == STAGES[0]]).set_index("sample")
    assert np.allclose(trace.x, rows.loc[list(trace.customdata), "x"])
    assert set(rows.loc[list(trace.customdata), "label"]) == {4}
    (low, high), _ = fixed_range(frame)
    assert low < frame["x"].min()
    assert high > frame["x"].max()


def test_stages_of_any_scale_fill_the_same_space():
    frame = pd.DataFrame({"stage": ["a"] * 3 + ["b"] * 3, "x": [0, 1, 2, 500, 900, 700], "y": [0, 0, 1, 5, 5, 5.0]})
    scaled = comparable(frame)
    assert np.allclose(scaled.groupby("stage")[["x", "y"]].mean(), 0)
    assert np.allclose((scaled[["x", "y"]] ** 2).sum(axis=1).groupby(scaled["stage"]).mean(), 1)
    assert np.isfinite(comparable(frame.assign(x=1.0, y=[np.inf, 2, 2, 2, 2, 2]))["x"]).all()


def test_outcome_colours_split_right_from_wrong(run):
    frame = read_embedding(run, "pca")
    stage = STAGES[0]
    guesses = contents.stage_predictions(contents.checked_predictions(run), stage)
    figure = embedding_figure(frame, stage, CLASSES, predicted=guesses, colour_by="outcome")
    rows = frame[frame["stage"] == stage].set_index("sample")["label"]
    wrong = next(trace for trace in figure.data if trace.name.startswith("wrong"))
    assert set(wrong.customdata) == set(rows.index[guesses.loc[rows.index] != rows])


def test_a_point_says_its_class_and_what_was_predicted(run):
    frame = read_embedding(run, "pca")
    guesses = contents.stage_predictions(contents.checked_predictions(run), STAGES[0])
    figure = embedding_figure(frame, STAGES[0], CLASSES, predicted=guesses)
    seven = next(trace for trace in figure.data if trace.name == "7")
    assert "<br>7<br>predicted %{text}" in seven.hovertemplate
    assert list(seven.text) == [CLASSES[guesses[sample]] for sample in seven.customdata]


def test_chosen_samples_are_highlighted(run):
    figure = embedding_figure(read_embedding(run, "pca"), STAGES[2], CLASSES, selected=[3, 13])
    highlighted = [trace.customdata[i] for trace in figure.data for i in trace.selectedpoints or ()]
    assert highlighted == [3, 13]


def test_the_overview_names_a_class_that_its_first_stage_lacks(run):
    frame = read_embedding(run, "pca")
    frame = frame[(frame["stage"] != STAGES[0]) | (frame["label"] != 0)]
    figure = embedding_overview(frame, STAGES[:3], CLASSES)
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(named) == sorted(CLASSES[label] for label in frame["label"].unique())


def test_the_overview_shares_one_scale(run):
    figure = embedding_overview(read_embedding(run, "pca"), STAGES[:3], CLASSES)
    assert figure.layout.xaxis.range == figure.layout.xaxis3.range
    assert sum(trace.showlegend for trace in figure.data) == len(CLASSES)


def test_twenty_classes_look_different():
    assert len({class_colour(i) for i in range(20)}) == 20 == len(CLASS_COLOURS)
    assert len({(class_colour(i), class_symbol(i)) for i in range(40)}) > 30


@pytest.mark.parametrize(("strategy", "epochs", "lines"), [("greedy", 18, 4), ("decoupled", 3, 24), ("bp", 3, 4)])
def test_training_curves_follow_the_strategy(tmp_path, strategy, epochs, lines):
    run = make_run(tmp_path / strategy, strategy=strategy, analyzed=False)
    sequential = contents.is_sequential(run)
    table = training_table(run.read_events(), sequential=sequential)
    assert table["epoch"].max() == epochs
    assert len(training_figure(run.read_events(), sequential=sequential).data) == lines


def test_a_repeated_epoch_replaces_the_one_before():
    events = [{"epoch": 1, "stage": "a", "val_loss": 2.0}, {"epoch": 1, "stage": "a", "val_loss": 1.0}]
    assert list(training_table(events)["value"]) == [1.0]


def test_events_of_a_stranger_do_not_break_the_curve():
    events = [{"epoch": [1], "loss": 1.0}, {"loss": "x", "epoch": 2}, {"epoch": 3, "loss": True}, {}]
    assert len(training_table(events)) == 1


def test_an_overlay_is_red_for_and_blue_against():
    image = np.full((4, 4, 1), 128, dtype=np.uint8)
    heat = np.zeros((4, 4), dtype=np.float16)
    heat[0, 0], heat[3, 3] = 2.0, -2.0
    drawn = overlay(image, heat).astype(int)
    assert drawn[0, 0, 0] > drawn[0, 0, 2]
    assert drawn[3, 3, 2] > drawn[3, 3, 0]
    assert len(set(drawn[1, 1])) == 1
    assert overlay(image, np.full((2, 2), np.nan)).shape == (4, 4, 3)
    assert hatched(image).ndim == 3


def test_the_attribution_grid_hatches_invalid_stages_and_gives_the_reason(run):
    found = read_attributions(run)
    assert found is not None
    item = found.attributions["integrated_gradients"]
    text = attribution_grid_html(item, found.attribution_images, found.attribution_labels, CLASSES)
    assert text.count("<img") == 6 * (1 + len(STAGES))
    assert text.count(">not valid<") == 6 + 5  # a stage of six images, and one image of each of the others
    assert text.count(">5 of 6 valid<") == 5
    assert "image 5, class" in text
    assert "not valid: no better than chance: insertion gain -0.1, deletion gain -0.2" in text
    assert "completeness residual 0.41" in text
    assert invalid_reasons(item) == [("block1", "completeness residual 0.41 exceeds 0.05")]


def test_maps_that_do_not_fit_are_refused_by_name():
    item = AttributionSet("gradcam", ["a"], np.zeros((2, 3, 8, 8)), np.zeros((1, 3)), [True], [""], [[""] * 3])
    with pytest.raises(RunError, match="gradcam maps"):
        attribution_grid_html(item, np.zeros((3, 8, 8, 1), dtype=np.uint8), np.zeros(3), CLASSES)
    item = AttributionSet("gradcam", ["a"], np.zeros((1, 3, 8, 8)), np.zeros((1, 3)), [True], [""], [[""] * 2])
    with pytest.raises(RunError, match="gradcam maps"):
        attribution_grid_html(item, np.zeros((3, 8, 8, 1), dtype=np.uint8), np.zeros(3), CLASSES)


def test_foreign_text_is_escaped():
    assert label("<b>x</b> & y") == "&lt;b&gt;x&lt;/b&gt; &amp; y"
    shown = Shown(1, np.zeros((4, 4), dtype=np.uint8), "<script>", 'a" onerror="x')
    text = gallery_html([shown])
    assert "<script>" not in text
    assert 'onerror="x' not in text


def test_the_depth_table_has_a_row_a_depth(table):
    frame = contents.depth_table(table, "test")
    assert list(frame["stage"]) == STAGES
    assert list(frame.columns[:3]) == ["depth", "stage", "trained head"]
    assert frame["parameters"].iloc[-1] == 1_400_000
    assert list(frame.columns[-4:]) == ["parameters", "FLOPs", "latency (ms)", "memory (MiB)"]


def test_views_load_no_torch():
    import subprocess
    import sys

    code = "import sys, lwexplain.views.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_the_deciding_accuracy_can_be_drawn_alone(table):
    every = {trace.name for trace in depth_figure(table).data if trace.name}
    alone = depth_figure(table, metrics=["head_accuracy"])
    names = {trace.name for trace in alone.data if trace.name}
    assert names < every
    assert len(alone.data) < len(depth_figure(table).data)


def test_a_note_names_its_metrics_and_the_stages_where_it_is_not_of_all(table):
    rows = table[table["metric"].isin(["silhouette", "gdv"])].assign(note="sub-sample")
    rows.loc[(rows["metric"] == "gdv") & rows["stage"].isin(STAGES[:2]), "note"] = "sub-sample; one class is empty"
    assert contents.notes(rows) == [
        "sub-sample: discrimination value (GDV), silhouette",
        f"one class is empty: discrimination value (GDV), at {STAGES[0]}, {STAGES[1]}",
    ]
    rows.attrs["forward"] = "bfloat16 forward pass: features differ by 1.0% of their spread from float32"
    assert contents.notes(rows)[0] == rows.attrs["forward"]
