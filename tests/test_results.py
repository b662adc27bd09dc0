import numpy as np
import pandas as pd
import pytest

from lwexplain.errors import RunError
from lwexplain.results import (
    METRIC_COLUMNS,
    PREDICTION_COLUMNS,
    Analysis,
    AttributionSet,
    correctness_patterns,
    metrics_frame,
    read_analysis,
    read_metrics,
    write_analysis,
)
from lwexplain.run import Run


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "")


def predictions(right):
    rows = [
        ("val", sample, stage, depth, "head", 1, 1 if hit else 0)
        for sample, hits in enumerate(right)
        for depth, (stage, hit) in enumerate(zip("ab", hits, strict=True), start=1)
    ]
    return pd.DataFrame(rows, columns=PREDICTION_COLUMNS)


def analysis():
    attrs = {"stages": ["a", "b"], "classes": ["x", "y"], "patterns": {}, "failures": [], "strategy": None}
    row = dict.fromkeys(METRIC_COLUMNS) | {"stage": "a", "depth": 1, "split": "val", "metric": "m", "value": 1.0}
    return Analysis(
        metrics=metrics_frame([row | {"seed": 0, "probe": "p", "note": "", "n": 7}], attrs),
        predictions=predictions([(1, 0)]),
        embeddings={"pca": pd.DataFrame({"x": [0.5]})},
        attributions={
            "saliency": AttributionSet(
                "saliency", ["a"], np.ones((1, 2, 4, 4)), np.zeros((1, 2)), [True], [""], [["", "x"]]
            )
        },
        thumbnails=np.zeros((1, 4, 4, 1), np.uint8),
        attribution_images=np.zeros((2, 4, 4, 1), np.uint8),
        attribution_labels=np.array([0, 1]),
        summary={"finished": "now"},
    )


def test_patterns_count_which_stages_were_right():
    counted = correctness_patterns(predictions([(1, 1), (0, 1), (0, 1), (1, 0)]), ["a", "b"])
    assert {key: counted["head"][key] for key in ("stages", "n")} == {"stages": ["a", "b"], "n": 4}
    assert counted["head"]["counts"] == {"01": 2, "10": 1, "11": 1}


def test_patterns_count_the_samples_of_the_most_frequent_class_apart():
    """Labels 1, 0, 0, 0: the last three samples are what a constant guess gets right."""
    frame = predictions([(1, 1), (0, 1), (0, 1), (1, 0)])
    right = frame["predicted"] == frame["label"]
    labels = frame["sample"].map({0: 1, 1: 0, 2: 0, 3: 0})
    frame = frame.assign(label=labels, predicted=np.where(right, labels, 1 - labels))
    assert correctness_patterns(frame, ["a", "b"])["head"]["frequent"] == {"01": 2, "10": 1}


def test_of_equally_frequent_classes_the_first_is_what_a_constant_guess_names():
    frame = predictions([(1, 1), (0, 1), (0, 1), (1, 0)])
    assert set(frame["label"]) == {1}
    assert correctness_patterns(frame, ["a", "b"])["head"]["frequent"] == {"01": 2, "10": 1, "11": 1}
    halves = frame.assign(label=frame["sample"] % 2, predicted=frame["sample"] % 2)
    assert correctness_patterns(halves, ["a", "b"])["head"]["frequent"] == {"11": 2}


def test_patterns_ignore_the_order_of_samples_and_the_test_split():
    frame = predictions([(1, 1), (0, 1)])
    test = frame.assign(split="test", predicted=0)
    shuffled = pd.concat([frame, test]).sample(frac=1, random_state=0)
    assert correctness_patterns(shuffled, ["a", "b"]) == correctness_patterns(frame, ["a", "b"])


def test_what_is_written_is_read_back(run):
    write_analysis(run, analysis())
    back = read_analysis(run)
    pd.testing.assert_frame_equal(back.metrics, analysis().metrics, check_dtype=False)
    assert back.metrics.attrs["stages"] == ["a", "b"]
    assert back.summary["finished"] == "now"
    assert back.summary["files"]["metrics.parquet"] == run.metrics_path.stat().st_size
    assert back.embeddings["pca"]["x"].tolist() == [0.5]
    assert back.attributions["saliency"].maps.shape == (1, 2, 4, 4)
    assert back.attribution_labels.tolist() == [0, 1]
    assert back.thumbnails.shape == (1, 4, 4, 1)


def test_a_run_without_analysis_says_how_to_make_one(run):
    with pytest.raises(RunError, match="lwexplain analyze"):
        read_metrics(run)


@pytest.mark.parametrize("name", ["metrics.parquet", "thumbnails.npy", "attributions/index.json"])
def test_a_damaged_file_is_named_with_the_mend(run, name):
    write_analysis(run, analysis())
    path = run.analysis / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(RunError, match=rf"{path.name}.*run lwexplain analyze again"):
        read_analysis(run)


def test_an_analysis_that_died_while_writing_does_not_look_whole(run, monkeypatch):
    write_analysis(run, analysis())
    monkeypatch.setattr(
        pd.DataFrame, "to_parquet", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(RunError, match="No space left"):
        write_analysis(run, analysis())
    with pytest.raises(RunError, match="lwexplain analyze"):
        read_metrics(run)
