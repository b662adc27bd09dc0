"""The quality of attributions is shown by method, a row for each stage."""

import numpy as np
import pandas as pd

from lwexplain.results import AttributionSet, metrics_frame
from lwexplain.table import TableInfo
from lwexplain.views.attribution_quality import attribution_quality
from lwexplain.views.gallery import invalid_images
from lwexplain.views.metrics import Metrics


def row(stage, depth, metric, value, split="val"):
    return {"stage": stage, "depth": depth, "split": split, "metric": metric, "class": None, "value": value}


def maps(method, valid, image_notes):
    arrays = np.zeros((2, 3, 4, 4)), np.zeros((2, 3))
    return AttributionSet(method, ["a", "b"], *arrays, valid, ["" if good else "why" for good in valid], image_notes)


def test_one_row_a_stage_with_its_validity_and_every_figure_that_was_measured():
    rows = [
        row("b", 2, "deep_lift_insertion_gain", 0.2),
        row("a", 1, "deep_lift_insertion_gain", 0.1),
        row("a", 1, "deep_lift_incomplete_share", 0.25),
        row("a", 1, "saliency_insertion_gain", 0.9),
        row("a", 1, "fisher_ratio", 3.0),
    ]
    item = maps("deep_lift", [True, False], [["", "off", ""], ["", "", ""]])
    frame = attribution_quality(pd.DataFrame(rows), item)
    assert list(frame.columns) == ["stage", "valid", "valid images", "incomplete images", "insertion gain"]
    assert frame["stage"].tolist() == ["a", "b"]
    assert frame["valid"].tolist() == ["yes", "no"]
    assert frame["valid images"].tolist() == ["2 of 3", "0 of 3"]
    assert frame["insertion gain"].tolist() == [0.1, 0.2]
    assert frame["incomplete images"].isna().tolist() == [False, True]


def test_a_method_without_measurements_shows_its_validity_alone():
    item = maps("gradcam", [True, True], [[""] * 3] * 2)
    for table in (pd.DataFrame([row("a", 1, "fisher_ratio", 3.0)]), metrics_frame([], TableInfo())):
        assert list(attribution_quality(table, item).columns) == ["stage", "valid", "valid images"]


def test_single_maps_that_are_not_valid_are_named_with_their_stage():
    notes = [["", "off", ""], ["low", "", "off"]]
    assert invalid_images(maps("m", [True, False], notes)) == [("a", "1 of 3 maps (image 1: off)")]
    assert invalid_images(maps("m", [True, True], notes), most=1)[1] == ("b", "2 of 3 maps (image 0: low; and 1 more)")


def test_the_figures_are_told_from_other_metrics_by_their_ending():
    assert Metrics().is_attribution_quality("occlusion_randomisation_correlation")
    assert Metrics().is_attribution_quality("saliency_edge_correlation_randomised")
    assert not Metrics().is_attribution_quality("fisher_ratio")
