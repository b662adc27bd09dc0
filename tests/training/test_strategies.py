import pytest
import torch

from lwexplain.models.staged import detach
from lwexplain.training.strategies.base import STRATEGIES

LOCAL = ["greedy", "decoupled"]


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_every_strategy_learns(make, strategy):
    overrides = {"training.strategy": strategy, "training.epochs": 6, "data.options.samples": 600}
    trainer, run = make(strategy, overrides)
    trainer.fit(run)
    last = [event for event in run.read_events() if event["event"] == "epoch"][-1]
    assert last["val_accuracy"] > 0.6
    assert run.status == "trained"


@pytest.mark.parametrize("strategy", LOCAL)
def test_every_stage_of_a_local_strategy_has_its_own_head(make, strategy):
    trainer, _ = make(strategy, {"training.strategy": strategy})
    assert trainer.model.head_depths == [1, 2, 3]


def test_bp_has_one_head_at_the_end(make):
    trainer, _ = make()
    assert trainer.model.head_depths == [3]


def gradients_after_each_unit(trainer):
    """For each unit's backward pass, which stages it leaves a gradient in."""
    trainer.run = None
    trainer.prepare(trainer.phases[0])
    state, labels, images, _ = next(iter(trainer.prefix.training(trainer.train_batches, 0, 0, 0)))
    found = []
    for unit in trainer.units:
        trainer.model.zero_grad(set_to_none=True)
        result = unit(state, labels, images)
        result.loss.backward()
        found.append([any(p.grad is not None for p in stage.parameters()) for stage in trainer.model.body])
        state = detach(result.state)
    return found


def test_decoupled_cuts_gradients_between_stages(make):
    """The loss of a deeper stage leaves no gradient in the stages before it."""
    trainer, _ = make("run", {"training.strategy": "decoupled"})
    assert gradients_after_each_unit(trainer) == [[True, False, False], [False, True, False], [False, False, True]]


@pytest.mark.parametrize("strategy", ["bp", "deep_supervision"])
def test_global_strategies_send_gradients_to_every_stage(make, strategy):
    trainer, _ = make("run", {"training.strategy": strategy})
    assert gradients_after_each_unit(trainer) == [[True, True, True]]
    assert all(p.grad is not None for p in trainer.model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_greedy_leaves_the_frozen_prefix_bit_identical(make, monkeypatch, precision):
    """Parameters and batch-norm buffers, although the loop calls ``.train()`` before every stage."""
    trainer, run = make("run", {"training.strategy": "greedy", "training.precision": precision})
    snapshots = {}
    leave, enter = trainer._leave, trainer._enter

    def state_of(depth):
        modules = [*trainer.model.body[:depth], *(trainer.model.head(d) for d in range(1, depth + 1))]
        return [tensor.clone() for module in modules for tensor in module.state_dict().values()]

    def entering(phase):
        enter(phase)
        trainer.model.train()
        snapshots[phase.depth] = state_of(phase.frozen)

    def leaving(phase):
        for before, after in zip(snapshots[phase.depth], state_of(phase.frozen), strict=True):
            assert torch.equal(before, after)
        leave(phase)

    monkeypatch.setattr(trainer, "_enter", entering)
    monkeypatch.setattr(trainer, "_leave", leaving)
    trainer.fit(run)
    assert list(snapshots) == [1, 2, 3]
