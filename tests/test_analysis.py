import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lwexplain as lw
from lwexplain.errors import CaptureError, RunError, UnknownNameError
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
    return table[(table["metric"] == metric) & (table["split"] == split)].sort_values("depth")


def test_every_stage_has_every_metric_of_the_chosen_probes(runs):
    table = read_analysis(runs["greedy"]).metrics
    for metric in ("head_accuracy", "linear_probe_accuracy", "knn_accuracy", "separability_index", "gdv"):
        assert rows(table, metric)["stage"].tolist() == ["conv1", "conv2", "conv3"]
    for metric in ("parameters", "flops", "latency_seconds"):
        assert (rows(table, metric, "none")["value"] > 0).all()
    assert table.attrs["failures"] == []


def test_head_accuracy_is_that_of_the_truncated_network(runs):
    """Computed here from the images, without hooks."""
    from lwexplain.analysis import load_trained
    from lwexplain.config import load_config
    from lwexplain.data.batches import Batches
    from lwexplain.data.load import load_data

    run = runs["greedy"]
    config = load_config(run.config())
    data = load_data(config.data, config.seed)
    model, _ = load_trained(run, data, torch.device("cpu"))
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

    monkeypatch.setattr("lwexplain.analysis.extract", forbidden)
    before = read_analysis(runs["greedy"]).metrics
    after = lw.analyze(runs["greedy"], ["knn"])
    pd.testing.assert_series_equal(
        rows(before, "knn_accuracy")["value"], rows(after, "knn_accuracy")["value"], check_index=False
    )


def test_damaged_features_are_captured_anew(runs):
    path = next((runs["greedy"].analysis / "features" / "val").glob("conv1.npy"))
    path.write_bytes(path.read_bytes()[:100])
    assert len(rows(lw.analyze(runs["greedy"], ["knn"]), "knn_accuracy")) == 3


def test_a_sub_sample_is_noted(runs):
    table = lw.analyze(runs["bp"], ["knn", "linear"], max_samples=30)
    noted = rows(table, "knn_accuracy")
    assert (noted["n"] == 30).all()
    assert noted["note"].str.contains("sub-sample of").all()
    lw.analyze(runs["bp"], QUICK)


def test_attributions_and_thumbnails_belong_to_the_val_split(runs):
    result = read_analysis(runs["greedy"])
    assert set(result.attributions) == {"saliency", "integrated_gradients", "grad_cam"}
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


# ---------------------------------------------------------------------- any module


def loaders(n=60, classes=3):
    generator = torch.Generator().manual_seed(0)
    made = {}
    for split in ("train", "val", "test"):
        y = torch.arange(n) % classes
        x = torch.randn(n, 3, 32, 32, generator=generator) + y[:, None, None, None]
        made[split] = [(x[i : i + 20], y[i : i + 20]) for i in range(0, n, 20)]
    return made


def test_analyze_model_needs_no_run_and_leaves_the_model_as_it_was():
    from torchvision.models import mobilenet_v3_small

    model = mobilenet_v3_small(weights=None, num_classes=3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = lw.analyze_model(model, loaders(), ["features.1", "features.8", "avgpool"], ["linear", Norm()])
    assert rows(table, "linear_probe_accuracy")["stage"].tolist() == ["features.1", "features.8", "avgpool"]
    assert len(rows(table, "mean_norm")) == 3
    assert lw.recommend(table).source == "linear_probe"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_analyze_model_reports_costs_it_cannot_measure():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            x = self.a(x)
            return self.b(x).mean((2, 3)) if x.sum() > -1e9 else x

    table = lw.analyze_model(Branching(), loaders(), ["a", "b"], ["linear"])
    assert [failure["probe"] for failure in table.attrs["failures"]] == ["cost"]
    assert lw.recommend(table).params_ratio is None


def test_analyze_model_names_a_wrong_stage_and_missing_loaders():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    with pytest.raises(CaptureError, match="no stage '7'"):
        lw.analyze_model(model, loaders(), ["7"], ["linear"])
    with pytest.raises(CaptureError, match=r"missing \['val'\]"):
        lw.analyze_model(model, {"train": loaders()["train"]}, ["0"], ["linear"])
    with pytest.raises(CaptureError, match="only 2 classes"):
        lw.analyze_model(model, loaders(), ["0"], ["linear"], classes=["a", "b"])


class Keep:
    """Keeps the val features it is shown."""

    name = "keep"

    def __init__(self):
        self.features = {}

    def measure(self, stage):
        self.features[stage.name] = stage.features["val"].copy()
        return {"width": stage.features["val"].shape[1]}


@pytest.mark.parametrize(
    ("arch", "size", "stages"),
    [
        ("mobilenet_v3_small", 64, ["features.0", "features.4.block.1", "features.12", "avgpool"]),
        ("vit_b_16", 224, ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", "encoder.ln"]),
    ],
)
def test_features_of_a_foreign_model_equal_those_of_torchvisions_own_extractor(arch, size, stages):
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    model = get_model(arch, weights=None, num_classes=2).eval()
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 0, 1])
    keep = Keep()
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    table = lw.analyze_model(model, {"train": batches, "val": batches}, stages, [keep])
    assert rows(table, "width")["stage"].tolist() == stages
    with torch.no_grad():
        reference = create_feature_extractor(model, stages)(images)
    for name in stages:
        pooled = reference[name].mean((2, 3)) if reference[name].ndim == 4 else reference[name].mean(1)
        np.testing.assert_allclose(keep.features[name], pooled.numpy(), rtol=0, atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_hook_is_left_behind_when_the_model_raises():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            self.a(x)
            raise ArithmeticError("in the middle")

    model = Failing()
    with pytest.raises(ArithmeticError):
        lw.analyze_model(model, loaders(), ["a", "b"], ["linear"])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------------- analyses that follow one another


@pytest.fixture
def own_run(tmp_path):
    run = lw.train(TINY, {"training.epochs": 1}, run_dir=tmp_path / "run")
    lw.analyze(run, ["head", "linear", "pca", "attribution"])
    return run


def test_an_analysis_of_other_samples_leaves_no_picture_of_the_old_ones(own_run):
    lw.analyze(own_run, ["head", "linear"], max_samples=20)
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
    assert str(path.name) in result.summary["replaced"]
    assert len(rows(result.metrics, "head_accuracy")) == 3


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
    monkeypatch.setattr("os.access", lambda *_: False)
    lw.recommend(own_run)
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


def test_resuming_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(RunError, match="no run directory"):
        lw.train(TINY, run_dir=tmp_path / "nowhere", resume=True)


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


def test_loaders_that_can_be_read_once_are_enough():
    once = {split: iter(batches) for split, batches in loaders().items()}
    table = lw.analyze_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), once, ["0", "1"], ["ncm"])
    assert len(rows(table, "parameters", "none")) == 2


def test_flops_of_attention_are_those_of_the_closed_form():
    """Projections 2 T D (3 D) and 2 T D D, scores and their weighting 2 T T D each."""
    from lwexplain.advice.cost import measure_costs

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    tokens, width = 9, 16
    expected = 2 * tokens * width * 3 * width + 2 * tokens * width * width + 2 * (2 * tokens * tokens * width)
    assert measure_costs([Attention().eval()], (16, 3, 3))[0].flops == expected
