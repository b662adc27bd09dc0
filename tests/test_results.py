import contextlib
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lwexplain.analysis.kept import require_nothing_lost
from lwexplain.errors import RunError
from lwexplain.results import (
    METRIC_COLUMNS,
    PREDICTION_COLUMNS,
    Analysis,
    AnalysisKey,
    AttributionSet,
    correctness_patterns,
    metrics_frame,
    read_analysis,
    read_metrics,
    write_analysis,
)
from lwexplain.results import replacing as analysis_files
from lwexplain.run import Run
from lwexplain.run.files import RunFiles
from lwexplain.table import TableInfo


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
    info = TableInfo(stages=["a", "b"], classes=["x", "y"], patterns={})
    row = dict.fromkeys(METRIC_COLUMNS) | {"stage": "a", "depth": 1, "split": "val", "metric": "m", "value": 1.0}
    return Analysis(
        metrics=metrics_frame([row | {"seed": 0, "probe": "p", "note": "", "n": 7}], info),
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


def test_copies_of_a_table_share_the_patterns_of_what_was_right(run):
    """pandas copies the attributes at every step, and of many samples the patterns are large."""
    write_analysis(run, analysis())
    for table in (analysis().metrics, read_metrics(run)):
        assert table[table["value"] > 0].attrs["patterns"] is table.attrs["patterns"]
        assert table.copy().attrs["stages"] == ["a", "b"]


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


# ---------------------------------------------------------------------- the old one or the new one, always whole


def other_analysis():
    """With another table, another layout and no attributions."""
    other = analysis()
    other.metrics["value"] = 2.0
    other.embeddings = {"umap": pd.DataFrame({"x": [0.25]})}
    other.attributions, other.summary = {}, {"finished": "later"}
    return other


def which(path):
    """``old`` or ``new``, once it is clear that every part of the analysis is of that one."""
    found = read_analysis(Run.open(path))
    name = {"now": "old", "later": "new"}[found.summary["finished"]]
    assert found.metrics["value"].tolist() == [1.0 if name == "old" else 2.0]
    assert list(found.embeddings) == ["pca" if name == "old" else "umap"]
    assert list(found.attributions) == (["saliency"] if name == "old" else [])
    files = [file.relative_to(path / "analysis") for file in (path / "analysis").rglob("*") if file.is_file()]
    shown = {file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)}
    assert shown - {"analysis.json"} == set(found.summary["files"])
    return name


def act_before_step(step, act):
    """Call ``act`` before the step of this number that changes a file: a write, a synchronisation, a renaming."""
    counts, patch, fsync = iter(range(10**6)), pytest.MonkeyPatch(), os.fsync
    for name in ("fsync", "replace", "rename", "mkdir", "unlink"):
        original = getattr(os, name)

        def acting(*arguments, _original=original, **options):
            if next(counts) == step:
                act()
            return None if _original is fsync else _original(*arguments, **options)

        patch.setattr(os, name, acting)
    return patch, counts


def fill_the_disk():
    raise OSError(28, "No space left on device")


def copies(run):
    """Endless copies of a run with the old analysis."""
    write_analysis(run, analysis())
    for number in range(200):
        yield number, shutil.copytree(run.path, run.path.with_name(f"copy{number}"))


def test_a_full_disk_at_any_step_leaves_the_old_analysis_or_the_new_one(run):
    seen = []
    for step, path in copies(run):
        patch, counts = act_before_step(step, fill_the_disk)
        with contextlib.suppress(RunError):
            write_analysis(Run.open(path), other_analysis())
        patch.undo()
        seen.append(which(path))
        if next(counts) <= step:
            break
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert len(seen) > 15


def write_and_be_killed(path, step):
    act_before_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    write_analysis(Run.open(path), other_analysis())


def test_a_kill_at_any_step_leaves_the_old_analysis_or_the_new_one(run):
    context, seen = multiprocessing.get_context("fork"), []
    for step, path in copies(run):
        process = context.Process(target=write_and_be_killed, args=(path, step))
        process.start()
        process.join(60)
        seen.append(which(path))
        with Run.open(path).lock("the next command"):
            assert {found.name for found in path.rglob(".*")} <= {".lock", ".next"}
        if process.exitcode == 0:
            break
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert len(seen) > 15


def test_a_full_disk_is_told_as_such(run, monkeypatch):
    write_analysis(run, analysis())
    monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda *_, **__: fill_the_disk())
    with pytest.raises(RunError, match=r"No space left on device; free space.*What was there before is untouched"):
        write_analysis(run, other_analysis())
    assert which(run.path) == "old"


def test_a_new_analysis_that_cannot_be_put_in_place_is_said_to_be_there(run, monkeypatch):
    write_analysis(run, analysis())
    monkeypatch.setattr(RunFiles, "move", lambda *_: (_ for _ in ()).throw(RunError("no right to it")))
    monkeypatch.setattr(analysis_files, "PATIENCE", 0.1)
    with pytest.raises(RunError, match="no right to it"):
        write_analysis(run, other_analysis())
    with pytest.raises(RunError, match=r"the new analysis of .* is not in its place yet: no right to it"):
        read_metrics(run)
    monkeypatch.undo()
    assert which(run.path) == "new"


# ---------------------------------------------------------------------- what would be lost is said

KEY = AnalysisKey("weights", "images", 10_000, "mean", "auto")


@pytest.mark.parametrize(
    ("changes", "probes", "lost"),
    [
        ({"max_samples": 100}, ["linear"], "attribution, knn"),
        ({"max_samples": None}, ["linear", "knn"], "attribution"),
        ({"pooling": "max"}, ["umap"], "attribution, knn, linear"),
        ({"precision": "float32"}, ["knn"], "attribution, linear"),
        ({"max_samples": 100}, ["linear", "knn", "attribution"], None),
        ({"max_samples": 100}, None, None),
        ({}, ["linear"], None),
        ({"checkpoint": "others", "max_samples": 100}, ["linear"], None),
        ({"data": "others", "pooling": "max"}, ["linear"], None),
    ],
)
def test_results_of_other_probes_are_not_lost_without_a_word(run, changes, probes, lost):
    whole = analysis()
    whole.summary |= {"key": KEY.to_dict(), "lasting": ["cost", "attribution", "linear", "knn"]}
    write_analysis(run, whole)
    asked = replace(KEY, **changes)
    if lost is None:
        require_nothing_lost(run, asked, probes)
        return
    with pytest.raises(RunError, match=rf"holds results of {lost}, which would be lost.*--replace"):
        require_nothing_lost(run, asked, probes)


def test_without_an_analysis_nothing_can_be_lost(run):
    require_nothing_lost(run, KEY, ["linear"])
