"""The engine runs probes over stages, keeps going when one fails, and fills the tables."""

import numpy as np
import pytest

from lwexplain.errors import ProbeError, UnknownNameError
from lwexplain.probes.base import Attribution, Embedding, Measurement, Predictions
from lwexplain.probes.engine import DEFAULT_PROBES, run_probes
from lwexplain.results import EMBEDDING_COLUMNS, METRIC_COLUMNS, PREDICTION_COLUMNS, metrics_frame


class Simple:
    name = "simple"

    def measure(self, stage):
        return {"my_metric": 0.5 + stage.depth}


class Rich:
    """Returns every kind of result, for all stages together."""

    name = "rich"

    def measure_all(self, stages):
        n = len(stages[0].labels["val"])
        return {
            stage.name: [
                Measurement("m", 1, "val", class_="a", low=0.5, high=2, n=9, note="hm"),
                Predictions("mine", "val", np.zeros(n)),
                Embedding("flat", "val", np.ones((3, 2)), np.array([4, 0, 2])),
                Attribution("heat", np.ones((2, 4, 4)), np.array([0, 1]), stage.depth > 1, "note"),
            ]
            for stage in stages
        }


class Broken:
    name = "broken"

    def measure(self, stage):
        if stage.depth == 2:
            raise ValueError("two\nlines")
        return {"fine": 1.0}


def stages_of(make_stage, **fields):
    return [make_stage(f"s{d}", d, seed=5, **fields) for d in (1, 2)]


def test_rows_have_the_columns_of_the_table(make_stage) -> None:
    run = run_probes(stages_of(make_stage), [Simple()])
    frame = metrics_frame(run.rows, {})
    assert list(run.rows[0]) == METRIC_COLUMNS
    assert frame["value"].tolist() == [1.5, 2.5]
    assert frame["stage"].tolist() == ["s1", "s2"]
    assert frame["split"].tolist() == ["val", "val"]
    assert frame["probe"].tolist() == ["simple", "simple"]
    assert run.failures == []
    assert set(run.seconds) == {"simple"}


def test_every_kind_of_result_finds_its_table(make_stage) -> None:
    stages = stages_of(make_stage, subsampled=frozenset({"val"}))
    run = run_probes(stages, [Rich()])
    assert run.rows[0]["note"] == "hm; stratified sub-sample of val"
    assert (run.rows[0]["class"], run.rows[0]["low"], run.rows[0]["high"], run.rows[0]["n"]) == ("a", 0.5, 2.0, 9)
    assert list(run.predictions.columns) == PREDICTION_COLUMNS
    n = len(stages[0].labels["val"])
    assert run.predictions["sample"].tolist() == [*range(n), *range(n)]
    assert run.predictions["label"].tolist()[:n] == stages[0].labels["val"].tolist()
    flat = run.embeddings["flat"]
    assert list(flat.columns) == EMBEDDING_COLUMNS
    assert flat["sample"].tolist() == [4, 0, 2] * 2
    assert flat["label"].tolist()[:3] == stages[0].labels["val"][[4, 0, 2]].tolist()
    heat = run.attributions["heat"]
    assert heat.stages == ["s1", "s2"]
    assert heat.maps.shape == (2, 2, 4, 4)
    assert heat.valid == [False, True]


def test_a_failing_probe_is_recorded_and_the_others_finish(make_stage) -> None:
    run = run_probes(stages_of(make_stage), [Broken(), Simple()])
    assert run.failures == [{"probe": "broken", "stage": "s2", "error": "ValueError: two lines"}]
    assert [row["metric"] for row in run.rows] == ["fine", "my_metric", "my_metric"]


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        ({"s1": {"m": 1.0}, "zz": {}}, "unknown stages: zz"),
        ([1], "expected a dict of stage name"),
        ({"s1": {"m": "x"}}, "not a number"),
        ({"s1": [Predictions("p", "val", np.zeros(3))]}, "predictions for"),
        ({"s1": [Predictions("p", "ood", np.zeros(3))]}, "split 'ood'"),
        ({"s1": [Embedding("e", "val", np.zeros((3, 3)), np.arange(3))]}, "coordinates"),
        ({"s1": [Embedding("e", "val", np.zeros((1, 2)), np.array([10**6]))]}, "samples beyond"),
        ({"s1": [Attribution("a", np.zeros((2, 2)), np.zeros(2))]}, "maps"),
    ],
)
def test_wrong_returns_become_failures(make_stage, returned, error: str) -> None:
    class Wrong:
        name = "wrong"

        def measure_all(self, stages):
            return returned

    run = run_probes(stages_of(make_stage), [Wrong(), Simple()])
    assert len(run.failures) == 1
    assert error in run.failures[0]["error"]
    assert "\n" not in run.failures[0]["error"]
    assert len(run.rows) == 2


def test_maps_of_different_shapes_are_a_failure(make_stage) -> None:
    class Uneven:
        name = "uneven"

        def measure(self, stage):
            return [Attribution("a", np.zeros((2, stage.depth, 3)), np.zeros(2))]

    run = run_probes(stages_of(make_stage), [Uneven()])
    assert "differ in shape" in run.failures[0]["error"]
    assert run.attributions == {}


@pytest.mark.parametrize(
    ("probes", "error", "message"),
    [
        (["lineer"], UnknownNameError, "did you mean 'linear'"),
        ([Simple], ProbeError, "pass an instance"),
        ([object()], ProbeError, "no name"),
        ([type("N", (), {"name": "n"})()], ProbeError, "neither a method measure"),
        ([Simple(), Simple()], ProbeError, "two probes are called 'simple'"),
        ("linear", ProbeError, "expected a list"),
    ],
)
def test_wrong_probes_are_refused_before_anything_runs(make_stage, probes, error, message: str) -> None:
    calls = []

    class Spy(Simple):
        name = "spy"

        def measure(self, stage):
            calls.append(stage)
            return {}

    with pytest.raises(error, match=message):
        run_probes(stages_of(make_stage), probes if isinstance(probes, str) else [Spy(), *probes])
    assert calls == []


def test_stages_need_names_of_their_own(make_stage) -> None:
    with pytest.raises(ProbeError, match="name of its own"):
        run_probes([make_stage(), make_stage()], [Simple()])
    with pytest.raises(ProbeError, match="at least one"):
        run_probes([], [Simple()])


def test_progress_is_told(make_stage) -> None:
    told = []
    run_probes(stages_of(make_stage), [Simple(), Rich()], on_progress=lambda *step: told.append(step))
    assert told == [("simple", 0, 3), ("simple", 1, 3), ("rich", 2, 3), ("rich", 3, 3)]


def test_quick_built_in_probes_by_name(make_stage) -> None:
    quick = [name for name in DEFAULT_PROBES if name not in ("umap", "attribution")]
    run = run_probes(stages_of(make_stage), quick)
    assert run.failures == []
    metrics = {row["metric"] for row in run.rows}
    assert {"linear_probe_accuracy", "knn_accuracy", "ncm_accuracy", "gdv"} <= metrics
    assert set(run.predictions["source"]) == {"linear_probe"}
    assert "pca" in run.embeddings
