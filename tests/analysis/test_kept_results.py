"""An analysis that is killed, repeated or shared among processes gives the table of one that was not."""

import os
import random
import shutil
import signal
import time

import pandas as pd
import pytest
from processes import Pair, fork_server

import lwexplain as lw
from lwexplain.analysis.measuring import settings_of
from lwexplain.capture import store
from lwexplain.errors import RunError
from lwexplain.probes.base import PROBES
from lwexplain.probes.engine import built_in_probes
from lwexplain.results import read_analysis
from lwexplain.run import Run

SMALL = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 500, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 3}},
    "training": {"strategy": "greedy", "epochs": 1, "head": "conv", "optimizer": {"lr": 0.05}},
}
CHOSEN = ["head", "linear", "knn", "ncm", "separability", "collapse", "geometry", "similarity", "pca"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return lw.train(SMALL, run_dir=tmp_path_factory.mktemp("runs") / "trained", quiet=True).path


@pytest.fixture
def another(trained, tmp_path):
    """Copies of the trained run: ``another(name)``."""
    return lambda name: shutil.copytree(trained, tmp_path / name)


def analyze(path, probes=None):
    lw.analyze(path, probes or CHOSEN, quiet=True)
    return path


def analyze_in_small_shards(path):
    store.SHARD_ROWS = 64
    analyze(path)


def measured(path):
    """The table without what a clock says."""
    table = read_analysis(Run.open(path)).metrics
    return table[table["metric"] != "latency_seconds"].reset_index(drop=True)


def progress(path):
    """How far an analysis has come: shards and parts that are there."""
    folder = path / "analysis"
    return len(list(folder.glob("features/*/shards/*"))) + 3 * len(list(folder.glob("parts/*/part.json")))


def test_an_analysis_killed_five_times_at_random_moments_gives_the_same_table(another):
    seed = int(os.environ.get("LWEXPLAIN_TEST_SEED", random.randrange(10**6)))
    print(f"the moments are those of LWEXPLAIN_TEST_SEED={seed}")
    moments = random.Random(seed)
    whole, killed = another("whole"), another("killed")
    context = fork_server()
    context.Process(target=analyze_in_small_shards, args=(whole,), daemon=True).run()
    exit_codes = []
    for moment in sorted(moments.randrange(progress(whole)) for _ in range(5)):
        process = context.Process(target=analyze_in_small_shards, args=(killed,), daemon=True)
        process.start()
        while process.is_alive() and progress(killed) < moment:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        exit_codes.append(process.exitcode)
    assert exit_codes == [-signal.SIGKILL] * 5
    before = progress(killed)
    analyze_in_small_shards(killed)
    assert before > 0
    pd.testing.assert_frame_equal(measured(whole), measured(killed))


def test_nothing_that_is_kept_is_computed_again(another, monkeypatch):
    path = analyze(another("run"), ["linear"])

    def forbidden(*_args, **_kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr("lwexplain.capture.run_splits.capturing", forbidden)
    monkeypatch.setattr("lwexplain.probes.linear.probe.Linear.measure_all", forbidden)
    analyze(path, ["linear", "collapse"])
    monkeypatch.setattr("lwexplain.training.trained.load_data", forbidden)
    assert len(lw.analyze(path, ["linear", "collapse"])) == len(lw.analyze(path, ["collapse"]))


def test_the_results_of_every_built_in_probe_last():
    for name in built_in_probes():
        probe = PROBES.create(name)
        assert settings_of(probe) is not None, name
        assert settings_of(probe) == settings_of(PROBES.create(name)), name


def test_a_probe_with_other_settings_is_measured_again(another):
    from lwexplain.probes.neighbours import NearestNeighbours

    path = analyze(another("run"), ["knn"])
    table = lw.analyze(path, [NearestNeighbours(grid=(3,))], quiet=True)
    notes = table[(table["metric"] == "knn_accuracy") & table["class"].isna()]["note"]
    assert notes.str.contains("k=3").all()
    again = lw.analyze(path, ["knn"], quiet=True)
    assert not again[again["metric"] == "knn_accuracy"]["note"].str.contains("k=3").all()


def test_other_weights_make_a_new_analysis(another):
    path = analyze(another("run"), ["ncm"])
    checkpoint = path / "checkpoints" / "last.safetensors"
    other = lw.train(SMALL, {"seed": 0, "training.epochs": 2}, run_dir=path.with_name("other"), quiet=True).path
    before = measured(path)
    shutil.copy(other / "checkpoints" / "last.safetensors", checkpoint)
    analyze(path, ["ncm"])
    assert not measured(path)["value"].equals(before["value"])


def test_two_analyses_at_once_are_refused_with_the_holder_named(another):
    path = another("run")
    with Run.open(path).lock("lwexplain analyze"), pytest.raises(RunError, match="is in use by lwexplain analyze"):
        analyze(path)


@pytest.fixture(scope="module")
def pair():
    made = Pair()
    yield made
    made.end()


def test_two_processes_give_the_table_of_one(another, pair):
    one, two = analyze(another("one")), another("two")
    pair(analyze_in_small_shards, two)
    alone, together = measured(one), measured(two)
    pd.testing.assert_frame_equal(
        alone.drop(columns=["value", "low", "high"]), together.drop(columns=["value", "low", "high"])
    )
    for column in ("value", "low", "high"):
        pd.testing.assert_series_equal(alone[column], together[column], rtol=1e-6, atol=1e-9)
    assert read_analysis(Run.open(two)).summary["processes"] == 2


def test_an_error_of_one_process_is_one_of_both(another, pair):
    path = another("run")
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("samples: 500", "samples: 501"))
    assert pair(error_of, path) == ["RunError"] * 2


def error_of(path):
    try:
        analyze(path)
    except lw.LwexplainError as error:
        return type(error).__name__
    return None
