"""Training from a stage on: the stages before it stay as they came, statistics too, and get no heads."""

import pytest
import torch

from lwexplain import api
from lwexplain.errors import ConfigError, TrainingError, TrainingInterrupted
from lwexplain.training.checkpoint import LAST, load_checkpoint
from lwexplain.training.prefix import PrefixCache
from lwexplain.training.strategies.base import Phase, Span, phases_from

STRATEGIES = ["bp", "greedy", "decoupled", "deep_supervision"]


def stage_states(model):
    """Copies of the weights and statistics of each stage."""
    return [{name: value.clone() for name, value in stage.state_dict().items()} for stage in model.body]


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_stages_before_stay_as_they_came_and_the_others_learn(make, strategy):
    trainer, run = make(strategy, {"training.strategy": strategy, "training.train_from": 2})
    before = stage_states(trainer.model)
    assert any("running_mean" in name for name in before[0])
    trainer.fit(run, quiet=True)
    unchanged = [same(old, new) for old, new in zip(before, stage_states(trainer.model), strict=True)]
    assert unchanged == [True, False, False]
    assert trainer.model.head_depths == ([3] if strategy == "bp" else [2, 3])
    assert run.trained_depth == 3
    phases = [event for event in run.read_events() if event["event"] == "phase"]
    assert [phase["frozen"] for phase in phases] == ([1, 2] if strategy == "greedy" else [1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_from_the_first_stage_on_is_all_of_them(make, strategy):
    trainer, _ = make(strategy, {"training.strategy": strategy, "training.train_from": 1})
    whole, _ = make("whole", {"training.strategy": strategy})
    assert trainer.phases == whole.phases


def test_the_outputs_of_the_frozen_stages_come_from_the_cache(make):
    trainer, run = make("cached", {"training.train_from": 3})
    trainer.fit(run, quiet=True)
    assert isinstance(trainer.prefix, PrefixCache)
    assert trainer.prefix.depth == 2


def weights_of(run):
    tensors, _ = load_checkpoint(run.path / "checkpoints" / LAST)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}


@pytest.mark.parametrize("strategy", ["bp", "greedy"])
def test_an_interrupted_training_goes_on_exactly(make, strategy):
    overrides = {"training.strategy": strategy, "training.train_from": 2}
    trainer, whole = make("whole", overrides)
    trainer.fit(whole, quiet=True)
    trainer, broken = make("broken", overrides)
    trainer.interruption.asked = True
    with pytest.raises(TrainingInterrupted):
        trainer.fit(broken, quiet=True)
    trainer, broken = make("broken", overrides)
    trainer.fit(broken, resume=True, quiet=True)
    one, other = weights_of(whole), weights_of(broken)
    assert one.keys() == other.keys()
    assert same(one, other)


@pytest.mark.parametrize(("value", "found"), [(4, "no stage 4"), ("nix", "no stage 'nix'")])
def test_a_stage_that_is_not_there_is_named(make, value, found):
    with pytest.raises(TrainingError, match=rf"training.train_from: {found}; known: .* \(or a depth from 1 to 3\)"):
        make("x", {"training.train_from": value})


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "", [2]])
def test_what_is_neither_a_stage_nor_a_depth_is_refused(value, make):
    with pytest.raises(ConfigError, match="must be the name of a stage or a depth from 1"):
        make("x", {"training.train_from": value})


def test_frozen_stages_of_random_weights_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"start from random weights; give pretrained ones"):
        api.train({"data": {"name": "digits"}, "training": {"train_from": 2}}, run_dir=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_spans_begin_behind_the_frozen_stages():
    whole = Phase("all", 0, (Span(0, 2, (1, 2), (0.5, 1.0)), Span(2, 3, (3,))))
    assert phases_from([whole], 1) == [Phase("all", 1, (Span(1, 2, (2,), (1.0,)), Span(2, 3, (3,))))]
    assert phases_from([whole], 2) == [Phase("all", 2, (Span(2, 3, (3,)),))]
    assert phases_from([Phase("first", 0, (Span(0, 1, (1,)),))], 1) == []
