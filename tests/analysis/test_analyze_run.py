import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import lwexplain as lw
from lwexplain.errors import CaptureError, LwexplainWarning, RunError, UnknownNameError
from lwexplain.results import is_analyzed, read_analysis

TINY = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 400, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 3}},
    "training": {"strategy": "greedy", "epochs": 2, "head": "conv", "optimizer": {"lr": 0.05}},
}
QUICK = ["head", "linear", "knn", "separability", "pca", "attribution"]


class Norm:
    """The probe of the README."""

    name = "norm"

    def measure(self, stage):
        return {"mean_norm": float(np.linalg.norm(stage.features["val"], axis=1).mean())}


class Broken:
    name = "broken"

    def measure(self, stage):
        raise ZeroDivisionError("on purpose")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for strategy in ("greedy", "bp"):
        made[strategy] = lw.train(TINY, {"training.strategy": strategy}, run_dir=folder / strategy)
        lw.analyze(made[strategy], QUICK)
    return made


def rows(table, metric, split="val"):
    found = table[(table["metric"] == metric) & (table["split"] == split) & table["class"].isna()]
    return found.sort_values("depth")


def test_every_stage_has_every_metric_of_the_chosen_probes(runs):
    table = read_analysis(runs["greedy"]).metrics
    for metric in ("head_accuracy", "linear_probe_accuracy", "knn_accuracy", "separability_index", "gdv"):
        assert rows(table, metric)["stage"].tolist() == ["conv1", "conv2", "conv3"]
    for metric in ("parameters", "flops", "latency_seconds"):
        assert (rows(table, metric, "none")["value"] > 0).all()
    assert table.attrs["failures"] == []


def test_head_accuracy_is_that_of_the_truncated_network(runs):
    """Computed here from the images, without hooks."""
    from lwexplain.config import load_config
    from lwexplain.data.batches import Batches
    from lwexplain.data.load import load_data
    from lwexplain.training.trained import open_trained

    run = runs["greedy"]
    config = load_config(run.config())
    data = load_data(config.data, config.seed)
    model = open_trained(run, "cpu").model
    for split in ("val", "test"):
        images = getattr(data, split)
        x, y, _ = next(iter(Batches(images, len(images), mean=data.mean, std=data.std, seed=0)))
        for depth, value in enumerate(rows(read_analysis(run).metrics, "head_accuracy", split)["value"], start=1):
            with torch.no_grad():
                assert value == pytest.approx(float((model(x, upto=depth).argmax(1) == y).double().mean()))


def test_a_bp_run_is_judged_by_the_linear_probe_and_a_greedy_one_by_its_heads(runs):
    assert lw.recommend(runs["bp"]).source == "linear_probe"
    assert lw.recommend(runs["greedy"]).source == "head"


def test_costs_grow_with_depth_and_count_the_head(runs):
    table = read_analysis(runs["bp"]).metrics
    parameters = rows(table, "parameters", "none")["value"].tolist()
    assert parameters == sorted(parameters)
    width, convolution = 4, 1 * 4 * 9
    assert parameters[0] == convolution + 2 * width + (width * 3 + 3)


def test_flops_of_the_first_stage_are_what_the_formula_says(runs):
    """2 x 9 x C_in x C_out x H x W for the convolution and 2 x C x K for the linear head; norms are not counted."""
    flops = rows(read_analysis(runs["bp"]).metrics, "flops", "none")["value"].iloc[0]
    assert flops == 2 * 9 * 1 * 4 * 8 * 8 + 2 * 4 * 3


def test_a_custom_probe_appears_beside_the_built_in_ones_and_a_broken_one_is_named(runs):
    table = lw.analyze(runs["bp"], [Norm(), Broken()])
    assert len(rows(table, "mean_norm")) == 3
    assert {failure["probe"] for failure in table.attrs["failures"]} == {"broken"}
    assert all("ZeroDivisionError: on purpose" in failure["error"] for failure in table.attrs["failures"])
    assert len(rows(table, "linear_probe_accuracy")) == 3, "what other probes measured before is kept"
    again = lw.analyze(runs["bp"], [Norm()])
    assert len(rows(again, "mean_norm")) == 3, "not doubled"
    assert lw.recommend(again).verdict == lw.recommend(runs["bp"]).verdict


def test_a_second_analysis_does_no_forward_pass(runs, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("a forward pass over the data")

    monkeypatch.setattr("lwexplain.capture.run_splits.capturing", forbidden)
    before = read_analysis(runs["greedy"]).metrics
    after = lw.analyze(runs["greedy"], ["knn"])
    pd.testing.assert_series_equal(
        rows(before, "knn_accuracy")["value"], rows(after, "knn_accuracy")["value"], check_index=False
    )


def test_damaged_features_are_captured_anew(runs):
    path = next((runs["greedy"].analysis / "features" / "val").glob("conv1.npy"))
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert len(rows(lw.analyze(runs["greedy"], [Norm()]), "mean_norm")) == 3
    assert path.read_bytes() == whole


def test_a_sub_sample_is_noted(runs):
    table = lw.analyze(runs["bp"], ["knn", "linear"], max_samples=30, replace=True)
    noted = rows(table, "knn_accuracy")
    assert (noted["n"] == 30).all()
    assert noted["note"].str.contains("sub-sample of").all()
    lw.analyze(runs["bp"], QUICK, replace=True)


def test_attributions_and_thumbnails_belong_to_the_val_split(runs):
    result = read_analysis(runs["greedy"])
    assert {"saliency", "integrated_gradients", "grad_cam"} <= set(result.attributions)
    for item in result.attributions.values():
        assert item.maps.shape == (3, len(result.attribution_images), 8, 8)
    assert result.thumbnails.shape[1:] == (8, 8, 1)
    assert len(result.thumbnails) == rows(result.metrics, "knn_accuracy")["n"].iloc[0]


def test_unknown_probes_and_unfinished_runs_are_refused_before_anything_is_lost(runs):
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        lw.analyze(runs["greedy"], ["linaer"])
    assert is_analyzed(runs["greedy"])
    run = runs["greedy"]
    status = run.status
    run.update(status="training")
    with pytest.raises(RunError, match="has not finished"):
        lw.analyze(run)
    run.update(status=status)


def test_other_images_than_those_trained_on_are_refused(runs, tmp_path):
    run = lw.train(TINY, {"training.epochs": 1}, run_dir=tmp_path / "run")
    text = (run.path / "config.yaml").read_text().replace("samples: 400", "samples: 401")
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match="differ from those"):
        lw.analyze(run)


def test_resume_of_a_finished_run_returns_it_and_of_another_config_is_refused(runs):
    path = runs["greedy"].path
    assert lw.train(TINY, run_dir=path, resume=True).manifest["id"] == runs["greedy"].manifest["id"]
    with pytest.raises(lw.LwexplainError, match=r"training\.epochs \(2 then, 3 now\)"):
        lw.train(TINY, {"training.epochs": 3}, run_dir=path, resume=True)
    with pytest.raises(RunError, match="not empty"):
        lw.train(TINY, run_dir=path)


def test_compare_puts_runs_side_by_side(runs):
    frame = lw.compare([runs["bp"], runs["greedy"].path])
    assert frame["strategy"].tolist() == ["bp", "greedy"]
    assert {"verdict", "depth", "params_ratio", "training_seconds"} <= set(frame.columns)
    with pytest.raises(lw.LwexplainError, match="two or more"):
        lw.compare([runs["bp"]])


# ---------------------------------------------------------------------- analyses that follow one another


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    run = lw.train(TINY, {"training.epochs": 1}, run_dir=tmp_path_factory.mktemp("analyzed") / "run")
    lw.analyze(run, ["head", "linear", "pca", "attribution"])
    return run.path


@pytest.fixture
def own_run(analyzed, tmp_path):
    """A copy of an analyzed run, for one test to change."""
    return lw.Run.open(shutil.copytree(analyzed, tmp_path / "run"))


def test_an_analysis_of_other_samples_leaves_no_picture_of_the_old_ones(own_run):
    with pytest.raises(RunError, match=r"results of attribution, pca, which would be lost.*max_samples 10000 \(now"):
        lw.analyze(own_run, ["head", "linear"], max_samples=20)
    assert len(read_analysis(own_run).attributions) > 0
    lw.analyze(own_run, ["head", "linear"], max_samples=20, replace=True)
    result = read_analysis(own_run)
    assert result.embeddings == {}
    assert result.attributions == {}
    assert len(result.thumbnails) == 20


def test_a_probe_that_fails_the_second_time_leaves_nothing_of_the_first(own_run):
    class Failing:
        name = "linear"

        def measure(self, stage):
            raise ValueError("this time")

    table = lw.analyze(own_run, [Failing()])
    assert rows(table, "linear_probe_accuracy").empty
    assert "linear_probe" not in table.attrs["patterns"]
    assert len(rows(table, "head_accuracy")) == 3


def test_a_metric_stays_with_the_probe_that_gave_it_first(own_run):
    class Claiming:
        name = "claiming"

        def measure(self, stage):
            return {"head_accuracy": 1.0, "own": 2.0}

    table = lw.analyze(own_run, [Claiming()])
    assert (rows(table, "head_accuracy")["probe"] == "head").all()
    assert len(rows(table, "own")) == 3
    assert [failure["probe"] for failure in table.attrs["failures"]] == ["claiming"] * 3


@pytest.mark.parametrize("name", ["metrics.parquet", "analysis.json", "embeddings/pca.parquet"])
def test_a_damaged_analysis_is_mended_by_analyzing_again(own_run, name):
    path = own_run.analysis / name
    path.write_bytes(path.read_bytes()[:30])
    lw.analyze(own_run, ["head", "linear"])
    result = read_analysis(own_run)
    assert len(rows(result.metrics, "head_accuracy")) == 3
    assert set(result.embeddings) == {"pca"}, "what was not asked for again is whole again too"


@pytest.mark.parametrize("wrong", [0, -5, 2])
def test_a_wrong_number_of_samples_is_named_and_costs_nothing(own_run, wrong):
    with pytest.raises(CaptureError, match=rf"max_samples.*{wrong}"):
        lw.analyze(own_run, max_samples=wrong)
    assert (own_run.analysis / "features" / "val" / "split.json").exists()


def test_no_probe_is_an_error(own_run):
    for wrong in ([], "linear"):
        with pytest.raises(lw.LwexplainError, match="at least one in a list"):
            lw.analyze(own_run, wrong)


def test_advice_on_part_of_a_table_is_about_that_part(own_run):
    table = read_analysis(own_run).metrics
    assert lw.recommend(table[table["stage"] != "conv3"]).full_depth == 2
    with pytest.raises(lw.LwexplainError, match="no row head_accuracy on val"):
        lw.recommend(table[:0])


def test_a_read_only_run_is_still_advised_on(own_run, monkeypatch):
    def refuse(*_arguments):
        raise RunError("the file system is read-only")

    monkeypatch.setattr(lw.Run, "write_json", refuse)
    with pytest.warns(LwexplainWarning, match=r"the recommendation is not kept in the run: .* read-only"):
        assert lw.recommend(own_run).verdict
    assert not (own_run.analysis / "recommendation.json").exists()


def test_a_run_that_failed_says_so_and_is_not_resumed(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(lw.LwexplainError, match=r"not finite|loss is"):
        lw.train(TINY, {"training.optimizer.lr": 1e30}, run_dir=path)
    for action in (
        lambda: lw.analyze(path),
        lambda: lw.train(TINY, {"training.optimizer.lr": 1e30}, run_dir=path, resume=True),
    ):
        with pytest.raises(RunError, match=r"training of .* failed: .*stage"):
            action()
    assert any(event["event"] == "failure" for event in lw.Run.open(path).read_events())


def test_resuming_what_is_not_there_starts_from_the_beginning_and_says_so(tmp_path):
    with pytest.warns(LwexplainWarning, match=r"there is no run .* to go on with: it starts from the beginning"):
        run = lw.train(TINY, {"training.epochs": 1}, run_dir=tmp_path / "nowhere", resume=True)
    assert run.status == "trained"


def test_resuming_in_a_folder_of_something_else_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"it has no run\.json"):
        lw.train(TINY, run_dir=tmp_path, resume=True)


def test_a_run_is_made_in_an_empty_folder_a_link_to_one_and_the_current_one(tmp_path, monkeypatch):
    for name in ("empty", "behind", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    monkeypatch.chdir(tmp_path / "here")
    for path in (tmp_path / "empty", tmp_path / "link", "."):
        assert lw.train(TINY, {"training.epochs": 1}, run_dir=path).status == "trained"
        assert lw.Run.open(path).status == "trained"
    assert (tmp_path / "behind" / "run.json").is_file()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "here" / "run.json").is_file()


def test_a_run_whose_making_was_stopped_in_its_folder_is_made_again(tmp_path, monkeypatch):
    def killed(*_arguments):
        raise KeyboardInterrupt

    path = tmp_path / "run"
    path.mkdir()
    monkeypatch.setattr("lwexplain.run.Run.save_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        lw.train(TINY, {"training.epochs": 1}, run_dir=path)
    monkeypatch.undo()
    assert not (path / "run.json").exists()
    with pytest.raises(RunError, match=r"it was stopped before .*start it again with lwexplain train CONFIG --run-dir"):
        lw.train(path / "config.yaml", run_dir=path, resume=True)
    with pytest.warns(LwexplainWarning, match="starts from the beginning"):
        assert lw.train(TINY, {"training.epochs": 1}, run_dir=path, resume=True).status == "trained"


@pytest.mark.parametrize(
    "moment",
    ["lwexplain.training.loop.Trainer.save", "lwexplain.training.loop.Trainer.fit", "lwexplain.run.Run.save_manifest"],
)
def test_a_kill_at_the_very_start_leaves_nothing_in_the_way(tmp_path, monkeypatch, moment):
    def killed(*_args, **_kwargs):
        raise KeyboardInterrupt

    path = tmp_path / "run"
    monkeypatch.setattr(moment, killed)
    with pytest.raises(KeyboardInterrupt):
        lw.train(TINY, run_dir=path)
    monkeypatch.undo()
    assert not path.exists() or "fingerprint" in lw.Run.open(path).manifest["data"]
    assert lw.train(TINY, run_dir=path, resume=path.exists()).status == "trained"
