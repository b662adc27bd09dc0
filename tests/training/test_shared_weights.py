"""Stages and heads may share layers: weights are written once, and read back into all of them."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lwexplain.errors import CheckpointError, TrainingError
from lwexplain.models.build import MODELS
from lwexplain.models.staged import StagedModel
from lwexplain.training.checkpoint import LAST, load_checkpoint, save_checkpoint


def two_stages(shape, classes):
    shared = nn.Conv2d(8, 8, 3, padding=1)
    stages = {"a": nn.Conv2d(shape[0], 8, 3), "b": nn.Sequential(shared, nn.ReLU()), "c": nn.Sequential(shared)}
    return StagedModel(stages, shape, classes)


def tied_parameter(shape, classes):
    first, second = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    second.weight = first.weight
    return StagedModel(
        {"a": nn.Conv2d(shape[0], 8, 3), "b": nn.Sequential(first, nn.ReLU()), "c": second}, shape, classes
    )


def shared_norm(shape, classes):
    norm = nn.BatchNorm2d(8)
    stages = {"a": nn.Sequential(nn.Conv2d(shape[0], 8, 3), norm), "b": nn.Sequential(nn.Conv2d(8, 8, 3), norm)}
    return StagedModel(stages, shape, classes)


def head_tied_to_a_stage(shape, classes):
    embedding = nn.Conv2d(shape[0], classes, 1)

    class Tail(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = embedding

        def forward(self, x):
            return x.mean((2, 3)) * self.embedding.weight.mean() + self.embedding.bias

    return StagedModel({"a": embedding, "b": nn.ReLU()}, shape, classes, tail=Tail())


SHARING = {network.__name__: network for network in (two_stages, tied_parameter, shared_norm, head_tied_to_a_stage)}


@pytest.fixture
def make_shared(make):
    def network(shape, classes, *, width=None, units="block", kind):
        return SHARING[kind](shape, classes)

    def build(name, run="run", strategy="bp"):
        model = {"name": "sharing", "width": None, "options": {"kind": name}}
        return make(run, {"model": model, "training.strategy": strategy, "training.epochs": 1})

    with MODELS.temporary():
        MODELS.register("sharing")(network)
        yield build


@pytest.mark.parametrize("strategy", ["bp", "greedy", "decoupled"])
@pytest.mark.parametrize("name", ["two_stages", "tied_parameter", "shared_norm"])
def test_networks_that_share_layers_are_trained_saved_and_read_back(make_shared, name, strategy):
    trainer, run = make_shared(name, strategy=strategy)
    trainer.fit(run)
    weights = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    fresh, _ = make_shared(name, strategy=strategy)
    tensors, _ = load_checkpoint(run.checkpoints / LAST)
    fresh.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    assert all(torch.equal(value, weights[key]) for key, value in fresh.model.state_dict().items())


def test_a_shared_layer_is_written_once(make_shared):
    trainer, run = make_shared("two_stages")
    trainer.fit(run)
    with safe_open(run.checkpoints / LAST, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert "model.body.1.0.weight" in names
    assert "model.body.2.0.weight" not in names
    assert json.loads(metadata["shared"])["model.body.2.0.weight"] == "model.body.1.0.weight"


def test_a_frozen_stage_keeps_the_layer_that_a_later_stage_shares_with_it(make_shared):
    """Greedy: what stage b learned is not changed by stage c."""
    trainer, run = make_shared("two_stages", strategy="greedy")
    kept = {}
    prepare = trainer.prepare

    def watched(phase):
        prepare(phase)
        kept[phase.frozen] = trainer.model.body[1][0].weight.detach().clone()

    trainer.prepare = watched
    trainer.fit(run)
    assert not torch.equal(kept[1], kept[2])
    assert torch.equal(kept[2], trainer.model.body[1][0].weight)


def test_a_head_tied_to_a_stage(make_shared):
    trainer, run = make_shared("head_tied_to_a_stage")
    trainer.fit(run)
    assert trainer.model.head(2).embedding.weight is trainer.model.body[0].weight
    greedy, run = make_shared("head_tied_to_a_stage", "greedy", "greedy")
    with pytest.raises(TrainingError, match="b has nothing to train"):
        greedy.fit(run)


def test_parts_of_one_memory_are_kept_apart(make):
    _, run = make()
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": whole,
        "row": whole[1],
        "turned": whole.T,
        "again": whole,
        "empty": whole[:0],
        "nothing": whole[:0],
    }
    path = run.checkpoints / LAST
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(path, tensors, {})
    found, _ = load_checkpoint(path)
    assert {name: value.tolist() for name, value in found.items()} == {k: v.tolist() for k, v in tensors.items()}


@pytest.mark.parametrize(
    "shared", ['{"row": "whole"}', '{"b": "c"}', '{"b": 3}', "[]", '{"b": "whole"}', "null", "not json"]
)
def test_a_list_of_shared_tensors_that_was_altered_is_refused(make, shared):
    _, run = make()
    path = run.checkpoints / LAST
    path.parent.mkdir(exist_ok=True)
    whole = torch.arange(4.0)
    save_checkpoint(path, {"whole": whole, "row": torch.zeros(2), "also": whole}, {})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata=metadata | {"shared": shared})
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
