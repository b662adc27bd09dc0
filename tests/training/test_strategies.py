import pytest
import torch

from lwexplain.training.losses import CrossEntropy
from lwexplain.training.strategy import STRATEGIES

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


def test_decoupled_cuts_gradients_between_stages(make):
    """The loss of a deeper stage leaves no gradient in the stages before it."""
    trainer, _ = make("run", {"training.strategy": "decoupled"})
    images, labels, _ = next(iter(trainer.train_batches.epoch()))
    phase = trainer.phases[0]
    gradients = []
    for local in trainer.strategy.losses(trainer.model, phase, images, labels, trainer.loss):
        trainer.model.zero_grad(set_to_none=True)
        local.value.backward()
        gradients.append([any(p.grad is not None for p in stage.parameters()) for stage in trainer.model.body])
    assert gradients == [[True, False, False], [False, True, False], [False, False, True]]


def test_bp_sends_gradients_to_every_stage(make):
    trainer, _ = make()
    images, labels, _ = next(iter(trainer.train_batches.epoch()))
    (local,) = trainer.strategy.losses(trainer.model, trainer.phases[0], images, labels, trainer.loss)
    local.value.backward()
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


def test_cross_entropy_is_the_mean_negative_log_likelihood():
    """Worked by hand: logits (0, log 3) give the second class the probability 3/4."""
    logits = torch.tensor([[0.0, torch.log(torch.tensor(3.0))]])
    value = CrossEntropy(2)(logits, torch.tensor([1]), logits, logits)
    torch.testing.assert_close(value, -torch.log(torch.tensor(0.75)))


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    log_p = torch.log_softmax(logits, 1)[0]
    expected = -(0.7 * log_p[1] + 0.3 * log_p.mean())
    value = CrossEntropy(3, label_smoothing=0.3)(logits, torch.tensor([1]), logits, logits)
    torch.testing.assert_close(value, expected)
