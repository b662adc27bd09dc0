"""On another day the run holds what was measured, and the person brings the code of the network."""

import gc

import pytest
import torch

import lwexplain as lw
from lwexplain.adoption.attach import attach
from lwexplain.adoption.live import live_of
from lwexplain.errors import RunError
from lwexplain.probes.attribution.probe import AttributionMaps
from lwexplain.results import read_attributions

STAGES = ["stem", "blocks.0", "blocks.1"]


@pytest.fixture
def left(model, loaders, out):
    """An adopted run that no Run object holds the network of any more."""
    lw.adopt(model, loaders, STAGES, out=out)
    gc.collect()
    assert live_of(lw.Run.open(out)) is None
    return out


def test_what_is_kept_is_measured_without_the_network(left, monkeypatch):
    monkeypatch.setattr("lwexplain.analysis.analyze_run.default_probes", lambda: ["head", "linear", "attribution"])
    table = lw.analyze(left, quiet=True)
    assert table.attrs["failures"] == []
    assert {"linear_probe_accuracy", "head_accuracy", "flops", "receptive_field"} <= set(table["metric"])
    assert any("attribution maps are not among" in note for note in table.attrs["notes"])
    assert lw.recommend(left).full_depth == 3
    assert lw.report(left).exists()


def test_what_needs_the_network_says_how_to_pass_it(left):
    for call in (
        lambda: lw.analyze(left, ["attribution"], quiet=True),
        lambda: lw.analyze(left, ["ncm"], pooling="max", quiet=True),
        lambda: lw.export(left, left.parent / "short.pt2", depth=1),
    ):
        with pytest.raises(RunError, match="model="):
            call()


def test_the_network_is_passed_again(left, model):
    maps = AttributionMaps(["saliency"], checks=[])
    table = lw.analyze(left, ["linear", maps], model=model, quiet=True)
    assert table.attrs["failures"] == []
    assert read_attributions(lw.Run.open(left)).attributions["saliency"].stages == STAGES


def test_a_network_with_other_weights_is_refused(left, model):
    with torch.no_grad():
        model.fc.bias.add_(1)
    with pytest.raises(RunError, match="other weights"):
        lw.analyze(left, model=model)


def test_a_network_that_was_built_for_it_takes_on_the_weights(left, model):
    new = type(model)()
    run = attach(lw.Run.open(left), new, own=True)
    assert torch.equal(new.fc.weight, model.fc.weight)
    assert live_of(run).network is new
    with pytest.raises(RunError, match=r"fc.bias is \(7,\)"):
        attach(lw.Run.open(left), type(model)(classes=7), own=True)
    with pytest.raises(RunError, match="weights that the run has not"):
        attach(lw.Run.open(left), torch.nn.Linear(3, 3), own=True)


def test_code_that_computes_something_else_is_noticed(left, model):
    class Changed(type(model)):
        def forward(self, x):
            return super().forward(2 * x)

    with pytest.raises(RunError, match="features at stem that differ"):
        attach(lw.Run.open(left), Changed(), own=True)


def test_loaders_come_back_by_adopting_again(left, model, loaders):
    run = lw.adopt(model, loaders, STAGES, out=left)
    table = lw.analyze(run, ["ncm"], pooling="max", quiet=True)
    assert set(table["metric"]) >= {"ncm_accuracy"}


def test_a_run_that_lwexplain_trained_takes_no_model(tmp_path, model):
    config = {"data": {"train_size": 60}, "model": {"name": "cnn", "width": 2}, "training": {"epochs": 1}}
    run = lw.train(config, run_dir=tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match="leave the model out"):
        lw.analyze(run, model=model)
