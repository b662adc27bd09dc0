"""The engine runs probes over stages, keeps going when one fails, and fills the tables."""

import warnings

import numpy as np
import pytest
import torch

from lwexplain.errors import ProbeError, UnknownNameError
from lwexplain.probes.base import Attribution, Embedding, Measurement, Predictions
from lwexplain.probes.engine import built_in_probes, run_probes
from lwexplain.results import EMBEDDING_COLUMNS, METRIC_COLUMNS, PREDICTION_COLUMNS, correctness_patterns, metrics_frame
from lwexplain.table import TableInfo


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
                Predictions("mine", "val", np.zeros(n, dtype=np.uint8)),
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
    """Two stages of 3 classes with two sample images."""
    fields = {"images": torch.zeros(2, 1, 4, 4), "image_labels": np.array([0, 1]), **fields}
    return [make_stage(f"s{d}", d, seed=5, **fields) for d in (1, 2)]


def test_rows_have_the_columns_of_the_table(make_stage):
    run = run_probes(stages_of(make_stage), [Simple()])
    frame = metrics_frame(run.rows, TableInfo())
    assert list(run.rows[0]) == METRIC_COLUMNS
    assert frame["value"].tolist() == [1.5, 2.5]
    assert frame["stage"].tolist() == ["s1", "s2"]
    assert frame["split"].tolist() == ["val", "val"]
    assert frame["probe"].tolist() == ["simple", "simple"]
    assert run.failures == []
    assert set(run.seconds) == {"simple"}


def test_every_kind_of_result_finds_its_table(make_stage):
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
    assert (run.sources, run.embedding_probes, run.attribution_probes) == (
        {"mine": "rich"},
        {"flat": "rich"},
        {"heat": "rich"},
    )
    assert run.failures == []


def test_a_failing_probe_is_recorded_and_the_others_finish(make_stage):
    run = run_probes(stages_of(make_stage), [Broken(), Simple()])
    assert run.failures == [{"probe": "broken", "stage": "s2", "error": "ValueError: two lines"}]
    assert [row["metric"] for row in run.rows] == ["fine", "my_metric", "my_metric"]


N = 87  # val samples of a stage
LABELS = np.zeros(N, dtype=np.int64)
MAPS, TARGETS = np.ones((2, 4, 4)), np.array([0, 1])
THREE = np.arange(3)


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        (7, "returned int"),
        ("m", "returned str"),
        ({1: 2.0}, "metric name 1"),
        ({"a b": 2.0}, "metric name 'a b'"),
        ({"a" * 300: 2.0}, "at most 64"),
        ({"m": "0.5"}, "m is '0.5', not a number"),
        ({"m": None}, "m is None, not a number"),
        ({"m": Unprintable()}, "m is a Unprintable, not a number"),
        ({"m": 10**400}, "not a number"),
        ({"head_accuracy": 1.5}, "a share in [0, 1]"),
        ([1], "a list that holds 1"),
        ([Measurement(None, 1.0)], "metric name None"),
        ([Measurement("m", 1.0, low="q")], "m: low is 'q', not a number"),
        ([Measurement("m", 1.0, high=[1, 2])], "m: high is [1, 2], not a number"),
        ([Measurement("m", 1.0, low=2.0, high=1.0)], "above high"),
        ([Measurement("m", 1.0, n="q")], "m: n is 'q'"),
        ([Measurement("m", 1.0, n=float("nan"))], "m: n is nan"),
        ([Measurement("m", 1.0, n=-1)], "m: n is -1"),
        ([Measurement("m", 1.0, n=2**63)], "m: n is 9223372036854775808"),
        ([Measurement("m", 1.0, n=True)], "m: n is True"),
        ([Measurement("m", 1.0, note=3)], "m: note is 3"),
        ([Measurement("m", 1.0, note="\udc80")], "no valid Unicode"),
        ([Measurement("m", 1.0, class_="k"), Measurement("m", 1.0, class_=3)], "m: class_ is 3"),
        ([Measurement("m", 1.0, split=3)], "m: split 3"),
        ([Measurement("m", 1.0, split="banana")], "expected train, val, test, none"),
        ([Measurement("m", 1.0), Measurement("m", 2.0)], "m on split val: this probe has given this twice"),
        ([Predictions("p", "val", np.zeros(3, dtype=int))], "(3,) predictions for 87 val"),
        ([Predictions("p", "ood", LABELS)], "split 'ood'"),
        ([Predictions("p", "none", LABELS)], "split 'none'"),
        ([Predictions("p q", "val", LABELS)], "source name 'p q'"),
        ([Predictions("p", "val", LABELS.astype(str))], "expected integers"),
        ([Predictions("p", "val", np.full(N, np.nan))], "of type float64; expected integers"),
        ([Predictions("p", "val", LABELS + 3)], "run from 3 to 3, beyond 0 to 2"),
        ([Predictions("p", "val", LABELS), Predictions("p", "val", LABELS)], "given this twice"),
        ([Embedding("e", "val", np.zeros((3, 3)), THREE)], "coordinates (3, 3); expected (3, 2)"),
        ([Embedding("e", "val", np.zeros((1, 2)), np.array([10**6]))], "beyond 0 to 86"),
        ([Embedding("e", "val", np.zeros((3, 2)), THREE * 1.0)], "samples are of type float64"),
        ([Embedding("e", "val", np.zeros((3, 2)).astype(str), THREE)], "coordinates are of type <U"),
        ([Embedding("e", "val", np.full((3, 2), np.inf), THREE)], "hold NaN, infinity"),
        ([Embedding("e", "val", np.zeros((2, 2)), np.array([1, 1]))], "a sample occurs twice"),
        ([Embedding("e", "val", np.zeros((0, 2)), THREE[:0])], "N at least 1"),
        ([Embedding("../../evil", "val", np.zeros((3, 2)), THREE)], "method name '../../evil'"),
        ([Attribution("../../evil", MAPS, TARGETS)], "method name '../../evil'"),
        ([Attribution("images", MAPS, TARGETS)], "reserved name"),
        ([Attribution("a", np.zeros((2, 2)), TARGETS)], "maps (2, 2) and targets (2,)"),
        ([Attribution("a", np.ones((3, 4, 4)), np.zeros(3, dtype=int))], "the M = 2 sample images"),
        ([Attribution("a", MAPS.astype(str), TARGETS)], "maps are of type <U"),
        ([Attribution("a", MAPS * np.nan, TARGETS)], "hold NaN, infinity"),
        ([Attribution("a", MAPS, TARGETS * 1.0)], "targets are of type float64"),
        ([Attribution("a", MAPS, TARGETS + 2)], "beyond 0 to 2"),
        ([Attribution("a", MAPS, TARGETS, valid="no")], "valid is 'no'"),
        ([Attribution("a", MAPS, TARGETS, note=None)], "note is None"),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_wrong_return_is_a_failure_of_its_probe_and_stage(make_stage, returned, error, together):
    class Wrong:
        name = "wrong"

    def measure(self, stage):
        return returned if stage.depth == 1 else {"fine": 1.0}

    def measure_all(self, stages):
        return {stage.name: measure(self, stage) for stage in stages}

    setattr(Wrong, "measure_all" if together else "measure", measure_all if together else measure)
    run = run_probes(stages_of(make_stage), [Wrong(), Simple()])
    assert [(failure["probe"], failure["stage"]) for failure in run.failures] == [("wrong", "s1")]
    assert error in run.failures[0]["error"]
    assert "\n" not in run.failures[0]["error"]
    assert [row["metric"] for row in run.rows] == ["fine", "my_metric", "my_metric"]
    assert len(run.predictions) == len(run.embeddings) == len(run.attributions) == 0
    metrics_frame(run.rows, TableInfo())


@pytest.mark.parametrize(
    ("returned", "error"),
    [({"s1": {"m": 1.0}, "zz": {}}, "unknown stages: zz"), ([1], "expected a dict of stage name")],
)
def test_wrong_returns_for_all_stages_become_failures(make_stage, returned, error):
    class Wrong:
        name = "wrong"

        def measure_all(self, stages):
            return returned

    run = run_probes(stages_of(make_stage), [Wrong(), Simple()])
    assert [failure["stage"] for failure in run.failures] == [None]
    assert error in run.failures[0]["error"]
    assert len(run.rows) == 2


def test_heat_maps_without_sample_images_are_a_failure(make_stage):
    run = run_probes(stages_of(make_stage, images=None), [Returns("a", [Attribution("a", MAPS, TARGETS)])])
    assert "no sample images" in run.failures[0]["error"]


def test_maps_of_another_shape_than_at_the_first_stage_are_a_failure(make_stage):
    class Uneven:
        name = "uneven"

        def measure(self, stage):
            return [Attribution("a", np.ones((2, stage.depth, 3)), TARGETS)]

    run = run_probes(stages_of(make_stage), [Uneven()])
    assert [(failure["probe"], failure["stage"]) for failure in run.failures] == [("uneven", "s2")]
    assert "differ in shape by stage: (2, 2, 3) here, (2, 1, 3) at s1" in run.failures[0]["error"]
    assert run.attributions["a"].stages == ["s1"]


class Returns:
    """Returns the same for every stage."""

    def __init__(self, name, returned):
        self.name, self.returned = name, returned

    def measure(self, stage):
        return self.returned


@pytest.mark.parametrize(
    "item",
    [
        Measurement("m", 1.0),
        Measurement("m", 1.0, "none", class_="k"),
        Predictions("p", "val", LABELS),
        Embedding("e", "val", np.zeros((3, 2)), THREE),
        Attribution("a", MAPS, TARGETS),
    ],
)
def test_what_an_earlier_probe_gave_is_refused_of_a_later_one(make_stage, item):
    later = Returns("later", [Measurement("other", 1.0), item])
    run = run_probes(stages_of(make_stage), [Returns("earlier", [item]), later])
    assert [(failure["probe"], failure["stage"]) for failure in run.failures] == [("later", "s1"), ("later", "s2")]
    assert all("probe 'earlier' has already given" in failure["error"] for failure in run.failures)
    assert {row["probe"] for row in run.rows} <= {"earlier"}
    owners = run.sources | run.embedding_probes | run.attribution_probes
    assert set(owners.values()) <= {"earlier"}


def test_one_metric_may_come_from_several_probes_about_different_things(make_stage):
    rows = [Measurement("m", 1.0), Measurement("m", 1.0, "test"), Measurement("m", 1.0, class_="k")]
    run = run_probes(stages_of(make_stage), [Returns(f"p{i}", row) for i, row in enumerate(rows)])
    assert run.failures == []
    assert len(run.rows) == 6


def test_a_foreign_probe_cannot_double_a_built_in_one(make_stage):
    stages = stages_of(make_stage)
    for stage in stages:
        stage.logits = {"val": np.eye(3, dtype=np.float32)[stage.labels["val"]]}
    foreign = [Returns("a", {"head_accuracy": 0.5}), Returns("b", Predictions("head", "val", LABELS))]
    run = run_probes(stages, ["head", *foreign])
    assert [failure["probe"] for failure in run.failures] == ["a", "a", "b", "b"]
    assert {row["value"] for row in run.rows} == {1.0}
    correctness_patterns(run.predictions, ["s1", "s2"])


def test_methods_that_differ_in_case_only_are_one_file_on_some_systems(make_stage):
    e = Embedding("PCA", "val", np.zeros((3, 2)), THREE)
    run = run_probes(stages_of(make_stage), ["pca", Returns("big", [e])])
    assert "probe 'pca' has already given pca" in run.failures[0]["error"]


def test_a_failed_stage_takes_no_name(make_stage):
    class Half:
        name = "half"

        def measure(self, stage):
            return [Predictions("p", "val", LABELS), Measurement("m", "x")]

    run = run_probes(stages_of(make_stage), [Half(), Returns("good", [Predictions("p", "val", LABELS)])])
    assert run.sources == {"p": "good"}
    assert len(run.predictions) == 2 * N


@pytest.mark.parametrize("method", ["measure", "measure_all"])
def test_an_exit_is_a_failure_and_an_interrupt_is_not(make_stage, method):
    def raising(error):
        def measure(self, given):
            raise error

        return type("Raising", (), {"name": "raising", method: measure})()

    run = run_probes(stages_of(make_stage), [raising(SystemExit(2)), Simple()])
    assert {failure["error"] for failure in run.failures} == {"SystemExit: 2"}
    assert len(run.rows) == 2
    with pytest.raises(KeyboardInterrupt):
        run_probes(stages_of(make_stage), [raising(KeyboardInterrupt())])


def test_an_error_that_cannot_be_written_is_a_failure_by_its_type(make_stage):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    class Raises(Simple):
        def measure(self, stage):
            raise Mute if stage.depth == 1 else ValueError("\udc80")

    run = run_probes(stages_of(make_stage), [Raises()])
    assert [failure["error"] for failure in run.failures] == ["Mute", "ValueError: ?"]


def test_a_probe_cannot_change_what_the_others_see(make_stage):
    class Vandal:
        name = "vandal"

        def __init__(self, change):
            self.change = change

        def measure(self, stage):
            self.change(stage)
            return {}

    logits = {"val": np.zeros((N, 3), dtype=np.float32)}
    stages = stages_of(make_stage, logits=logits)
    labels = stages[0].labels["val"].copy()
    for name in ("labels", "features", "logits"):

        def overwrite(stage, name=name):
            getattr(stage, name)["val"][:] = 0

        run = run_probes(stages, [Vandal(overwrite)])
        assert all("read-only" in failure["error"] for failure in run.failures)
        assert len(run.failures) == 2

    def swap(stage):
        stage.labels["val"] = LABELS
        stage.classes.clear()
        stage.images.add_(1)
        stage.name = "mine"

    run = run_probes(stages, [Vandal(swap), "ncm"])
    assert run.failures == []
    assert {row["stage"] for row in run.rows} == {"s1", "s2"}
    assert np.array_equal(stages[0].labels["val"], labels)
    assert len(stages[0].classes) == 3
    assert not stages[0].images.any()


def test_results_are_copies_of_what_a_probe_keeps(make_stage):
    class Reuses:
        name = "reuses"
        maps = np.zeros((2, 4, 4), dtype=np.float32)

        def measure(self, stage):
            self.maps[:] = stage.depth
            return [Attribution("a", self.maps, TARGETS)]

    run = run_probes(stages_of(make_stage), [Reuses()])
    assert run.attributions["a"].maps[:, 0, 0, 0].tolist() == [1, 2]


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
def test_wrong_probes_are_refused_before_anything_runs(make_stage, probes, error, message):
    calls = []

    class Spy(Simple):
        name = "spy"

        def measure(self, stage):
            calls.append(stage)
            return {}

    with pytest.raises(error, match=message):
        run_probes(stages_of(make_stage), probes if isinstance(probes, str) else [Spy(), *probes])
    assert calls == []


def test_stages_need_names_of_their_own(make_stage):
    with pytest.raises(ProbeError, match="name of its own"):
        run_probes([make_stage(), make_stage()], [Simple()])
    with pytest.raises(ProbeError, match="at least one"):
        run_probes([], [Simple()])


def test_progress_is_told(make_stage):
    told = []
    run_probes(stages_of(make_stage), [Simple(), Rich()], on_progress=lambda *step: told.append(step))
    assert told == [("simple", 0, 3), ("simple", 1, 3), ("rich", 2, 3), ("rich", 3, 3)]


def test_quick_built_in_probes_by_name(make_stage):
    quick = [name for name in built_in_probes() if name not in ("umap", "attribution")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays it could write to although they are read-only
        run = run_probes(stages_of(make_stage, images=None), quick)
    assert run.failures == []
    metrics = {row["metric"] for row in run.rows}
    assert {"linear_probe_accuracy", "knn_accuracy", "ncm_accuracy", "gdv"} <= metrics
    assert set(run.predictions["source"]) == {"linear_probe"}
    assert "pca" in run.embeddings
