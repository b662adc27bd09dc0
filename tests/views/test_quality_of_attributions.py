"""The quality of attributions is shown by method, one row a stage."""

import pandas as pd

from lwexplain.results import metrics_frame
from lwexplain.views.attribution_quality import attribution_quality, is_attribution_quality


def row(stage: str, depth: int, metric: str, value: float, split: str = "val") -> dict:
    return {"stage": stage, "depth": depth, "split": split, "metric": metric, "class": None, "value": value}


def test_one_row_a_stage_and_one_column_a_figure_that_was_measured() -> None:
    rows = [
        row("b", 2, "deep_lift_insertion_gain", 0.2),
        row("a", 1, "deep_lift_insertion_gain", 0.1),
        row("a", 1, "deep_lift_completeness_residual", 0.01),
        row("a", 1, "saliency_insertion_gain", 0.9),
        row("a", 1, "fisher_ratio", 3.0),
    ]
    frame = attribution_quality(pd.DataFrame(rows), "deep_lift")
    assert list(frame.columns) == ["stage", "completeness residual", "insertion gain"]
    assert frame["stage"].tolist() == ["a", "b"]
    assert frame["insertion gain"].tolist() == [0.1, 0.2]
    assert frame["completeness residual"].isna().tolist() == [False, True]


def test_a_method_without_measurements_has_no_rows() -> None:
    assert attribution_quality(pd.DataFrame([row("a", 1, "fisher_ratio", 3.0)]), "gradcam").empty
    assert attribution_quality(metrics_frame([], {}), "gradcam").empty


def test_the_figures_are_told_from_other_metrics_by_their_ending() -> None:
    assert is_attribution_quality("occlusion_randomisation_correlation")
    assert not is_attribution_quality("fisher_ratio")
