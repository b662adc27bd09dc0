import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lwexplain.devices import place
from lwexplain.models.build import MODELS
from lwexplain.models.staged import StagedModel
from lwexplain.training.checkpoint import LAST, load_checkpoint
from lwexplain.training.losses.base import LocalLoss
from lwexplain.training.strategies.base import STRATEGIES
from lwexplain.training.unit import head_loss

LAYERS = {"model.name": "resnet10", "model.units": "layer", "model.options": {}}


@pytest.fixture
def model_without_statistics(monkeypatch):
    """A model whose samples do not see each other: two stages of a convolution and a ReLU."""

    def factory(input_shape, num_classes, *, width=None, units="block"):
        convolutions = nn.Conv2d(input_shape[0], 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        stages = {f"conv{n}": nn.Sequential(conv, nn.ReLU()) for n, conv in enumerate(convolutions, start=1)}
        return StagedModel(stages, input_shape, num_classes)

    with MODELS.temporary():
        yield chosen(factory)


@pytest.fixture
def model_with_dropout():
    def factory(input_shape, num_classes, *, width=None, units="block"):
        first = nn.Sequential(nn.Conv2d(input_shape[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        second = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3))
        return StagedModel({"one": first, "two": second}, input_shape, num_classes)

    with MODELS.temporary():
        yield chosen(factory)


def chosen(factory):
    """Register a model for one test; returns the overrides that choose it."""
    MODELS.register("of this test")(factory)
    return {"model": {"name": "of this test"}, "training.head": "linear"}


def train(make, name, overrides):
    trainer, run = make(name, overrides)
    trainer.fit(run)
    tensors, _ = load_checkpoint(run.checkpoints / LAST)
    return {key: tensor for key, tensor in tensors.items() if key.startswith(("model.", "loss."))}, run


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def phase_events(run):
    return [event for event in run.read_events() if event["event"] == "phase"]


def first_step(trainer):
    """The unit of the first phase, ready to learn, and a batch."""
    trainer.run = None
    trainer.prepare(trainer.phases[0])
    return trainer.units[0], next(iter(trainer.prefix.training(trainer.train_batches, 0, 0, 0)))


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


# ---------------------------------------------------------------------- gradient checkpointing


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_gradient_checkpointing_changes_no_bit_of_weights_and_statistics(make, strategy):
    overrides = {"training.strategy": strategy}
    plain, _ = train(make, "plain", overrides)
    checkpointed, _ = train(make, "checkpointed", overrides | {"training.gradient_checkpointing": True})
    assert {int(tensor) for key, tensor in plain.items() if key.endswith("num_batches_tracked")} == {2 * 6}
    assert same(plain, checkpointed)


@pytest.mark.parametrize("overrides", [{"training.precision": "bf16"}, LAYERS, {"training.accumulate": 2}])
def test_gradient_checkpointing_changes_no_bit_in_other_recipes_either(make, overrides):
    plain, _ = train(make, "plain", overrides)
    checkpointed, _ = train(make, "checkpointed", overrides | {"training.gradient_checkpointing": True})
    assert same(plain, checkpointed)


def test_gradient_checkpointing_drops_the_same_features_twice(make, model_with_dropout):
    plain, _ = train(make, "plain", model_with_dropout)
    checkpointed, _ = train(make, "checkpointed", model_with_dropout | {"training.gradient_checkpointing": True})
    assert same(plain, checkpointed)


def test_gradient_checkpointing_keeps_fewer_activations(make):
    deep = {"model.options.depth": 8, "model.options.downsample_every": 8, "training.epochs": 1}
    _, plain = train(make, "plain", deep)
    _, checkpointed = train(make, "checkpointed", deep | {"training.gradient_checkpointing": True})
    [before], [after] = phase_events(plain), phase_events(checkpointed)
    assert after["activation_bytes"] < 0.7 * before["activation_bytes"]
    assert 1.2 * before["step_flops"] < after["step_flops"] < 1.5 * before["step_flops"]


# ---------------------------------------------------------------------- accumulation


@pytest.mark.parametrize("batch", [32, 33])
def test_a_batch_in_parts_is_the_whole_batch_where_samples_do_not_see_each_other(make, model_without_statistics, batch):
    """Also in parts of 17 and 16 images, where the loss of each part counts by its images."""
    overrides = model_without_statistics | {"data.batch_size": batch, "training.strategy": "deep_supervision"}
    whole, one = train(make, "whole", overrides)
    parts, two = train(make, "parts", overrides | {"training.accumulate": 2})
    for key, tensor in whole.items():
        assert torch.allclose(tensor, parts[key], rtol=0, atol=2e-6)
    lines = [[event for event in run.read_events() if event["event"] == "epoch"] for run in (one, two)]
    for before, after in zip(*lines, strict=True):
        assert after["train_loss"] == pytest.approx(before["train_loss"], abs=1e-5)
        assert after["train_accuracy"] == before["train_accuracy"]


def test_parts_keep_fewer_activations_and_cost_the_same_operations(make):
    _, whole = train(make, "whole", {"training.epochs": 1, "training.strategy": "greedy"})
    _, parts = train(make, "parts", {"training.epochs": 1, "training.strategy": "greedy", "training.accumulate": 4})
    for before, after in zip(phase_events(whole), phase_events(parts), strict=True):
        assert after["activation_bytes"] < 0.3 * before["activation_bytes"]
        assert after["step_flops"] == before["step_flops"]


def test_statistics_of_a_batch_in_parts_move_with_every_part(make):
    parts, _ = train(make, "parts", {"training.accumulate": 4, "training.epochs": 1})
    assert {int(tensor) for key, tensor in parts.items() if key.endswith("num_batches_tracked")} == {4 * 6}


def test_a_batch_in_parts_has_one_update(make, model_without_statistics):
    trainer, run = make("parts", model_without_statistics | {"training.accumulate": 4, "training.epochs": 1})
    updates = []
    prepare = trainer.prepare

    def count_updates(phase):
        prepare(phase)
        trainer.state.optimizer.register_step_post_hook(lambda *_: updates.append(1))

    trainer.prepare = count_updates
    trainer.fit(run)
    assert len(updates) == len(trainer.train_batches) == 6


@pytest.mark.parametrize(
    ("loss", "parts", "told"),
    [("similarity", 2, 1), ("predsim", 2, 1), ("separability", 4, 1), ("separability", 1, 0), ("cross_entropy", 2, 0)],
)
def test_the_log_says_that_samples_are_compared_within_a_part_alone(make, loss, parts, told):
    overrides = {"training.loss": loss, "training.accumulate": parts, "training.epochs": 1}
    _, run = train(make, "run", overrides)
    events = [event for event in run.read_events() if event["event"] == "compared_in_parts"]
    assert len(events) == told
    assert all(f"training.loss={loss}" in event["reason"] for event in events)


def test_samples_of_another_part_are_not_compared(make):
    """Two halves on their own give the gradients of the batch in two parts, and those of the whole batch are others."""
    recipe = {"training.loss": "similarity", "training.strategy": "greedy", "training.head": "linear"}

    def gradient(name, parts):
        trainer, _ = make(name, recipe | {"training.accumulate": parts})
        trainer.prepare(trainer.phases[0])
        batch = next(iter(trainer.prefix.training(trainer.train_batches, 0, 0, 0)))
        for part, share, _ in trainer._parts(batch):
            (share * trainer.units[0](part.state, part.labels, part.images).loss).backward()
        return torch.cat([grad.flatten() for grad in gradients(trainer.units[0].losses).values()])

    def gradient_of_halves(name):
        trainer, _ = make(name, recipe)
        trainer.prepare(trainer.phases[0])
        batch = next(iter(trainer.prefix.training(trainer.train_batches, 0, 0, 0)))
        for half in batch.split(2):
            (0.5 * trainer.units[0](half.state, half.labels, half.images).loss).backward()
        return torch.cat([grad.flatten() for grad in gradients(trainer.units[0].losses).values()])

    torch.testing.assert_close(gradient("two", 2), gradient_of_halves("halves"))
    assert not torch.allclose(gradient("one", 1), gradient("again", 2), rtol=0.01)


# ---------------------------------------------------------------------- losses and heads


def test_a_loss_of_the_features_alone_teaches_the_stage_whatever_the_head(make):
    found = {}
    for head in ("linear", "conv"):
        trainer, _ = make(head, {"training.loss": "similarity", "training.strategy": "greedy", "training.head": head})
        unit, batch = first_step(trainer)
        unit(batch.state, batch.labels, batch.images).loss.backward()
        found[head] = gradients(unit.stages), gradients(unit.losses), gradients(unit.heads)
    for one, other in zip(found["linear"][:2], found["conv"][:2], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert all(float(gradient.abs().max()) > 0 for name, gradient in one.items() if name.endswith("weight"))
    for _, _, head in found.values():
        assert all(float(gradient.abs().max()) > 0 for gradient in head.values())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("loss", ["similarity", "separability"])
def test_a_head_beside_a_loss_of_the_features_alone_learns_by_cross_entropy(make, loss, smoothing):
    recipe = {"training.loss": loss, "training.label_smoothing": smoothing}
    trainer, _ = make("run", recipe | {"training.strategy": "greedy", "training.head": "linear"})
    unit, batch = first_step(trainer)
    unit(batch.state, batch.labels, batch.images).loss.backward()
    head = unit.heads["1"]
    found = gradients(head)
    head.zero_grad()
    with torch.no_grad():
        features = trainer.model.body[0](batch.state)
    F.cross_entropy(head(features), batch.labels, label_smoothing=smoothing).backward()
    for name, expected in gradients(head).items():
        assert torch.allclose(found[name], expected, atol=1e-6)


def test_the_head_beside_a_loss_of_the_features_alone_tells_classes_apart(make):
    overrides = {"training.loss": "similarity", "training.strategy": "greedy", "training.epochs": 4}
    _, run = train(make, "run", overrides)
    last = [event for event in run.read_events() if event["event"] == "epoch"][-1]
    assert last["val_accuracy"] > 0.6


class Halved(LocalLoss):
    """Half of the logits' gradient goes on into the stage."""

    logits_share = 0.5

    def forward(self, logits, labels, features, images):
        return F.cross_entropy(logits, labels)


def test_a_share_of_the_logits_reaches_the_stage_and_all_of_them_the_head():
    torch.manual_seed(0)
    stage, head = nn.Linear(5, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 3))
    x, labels = torch.randn(8, 5), torch.arange(8) % 3
    F.cross_entropy(head(stage(x)), labels).backward()
    whole = gradients(stage), gradients(head)
    stage.zero_grad()
    head.zero_grad()
    value, _ = head_loss(head, Halved(), stage(x), labels, torch.empty(0))
    value.backward()
    for name, gradient in gradients(stage).items():
        assert torch.allclose(gradient, 0.5 * whole[0][name], atol=1e-7)
    for name, gradient in gradients(head).items():
        assert torch.allclose(gradient, whole[1][name], atol=1e-7)


@pytest.mark.parametrize(
    ("auxiliary_weight", "weights"), [(1.0, (0.5, 0.5, 1)), (0.3, (0.15, 0.15, 1)), (0, (0, 0, 1))]
)
def test_deep_supervision_weighs_the_last_head_one_and_the_mean_of_the_others(make, auxiliary_weight, weights):
    options = {"auxiliary_weight": auxiliary_weight}
    trainer, _ = make("run", {"training.strategy": "deep_supervision", "training.strategy_options": options})
    unit, batch = first_step(trainer)
    result = unit(batch.state, batch.labels, batch.images)
    assert len(result.values) == len(result.logits) == 3
    values = [value.item() for value in result.values]
    assert result.loss.item() == pytest.approx(sum(w * value for w, value in zip(weights, values, strict=True)))
    result.loss.backward()
    found = gradients(unit.stages)
    unit.zero_grad()
    result = unit(batch.state, batch.labels, batch.images)
    torch.autograd.backward([w * value for w, value in zip(weights, result.values, strict=True)])
    for name, gradient in gradients(unit.stages).items():
        assert torch.allclose(found[name], gradient, atol=1e-6)


def test_deep_supervision_without_auxiliary_weight_learns_what_bp_learns(make):
    deep = {"training.strategy": "deep_supervision", "training.strategy_options.auxiliary_weight": 0}
    supervised, _ = train(make, "supervised", deep)
    fresh, _ = make("fresh", deep)
    trainer, run = make("bp", {"training.strategy": "bp"})
    trainer.model.head(3).load_state_dict(fresh.model.head(3).state_dict())
    trainer.fit(run)
    for key, tensor in trainer.model.state_dict().items():
        assert torch.allclose(tensor, supervised[f"model.{key}"], rtol=0, atol=1e-6)


def test_a_unit_hands_on_the_state_after_its_last_stage(make):
    trainer, _ = make("run", LAYERS | {"training.strategy": "decoupled", "training.head": "linear"})
    trainer.run = None
    trainer.prepare(trainer.phases[0])
    batch = next(iter(trainer.prefix.training(trainer.train_batches, 0, 0, 0)))
    trainer.model.eval()
    first = trainer.units[0](batch.state, batch.labels, batch.images)
    second = trainer.units[1](first.state, batch.labels, batch.images)
    assert isinstance(second.state, tuple)
    assert torch.equal(second.state[1], first.state)
    assert torch.equal(second.logits[0], trainer.model(batch.state, upto=2))


# ---------------------------------------------------------------------- devices


def test_a_placed_module_takes_what_it_is_given_to_its_device():
    module = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    before = module(x)
    place(module, torch.device("cpu"))
    assert torch.equal(module(x), before)
    place(module, torch.device("meta"))
    assert module(x).device.type == "meta"


def test_a_placed_module_takes_tuples_too():
    class Sum(nn.Module):
        def forward(self, state):
            return state[0] + state[1]

    module = Sum()
    place(module, torch.device("meta"))
    assert module((torch.zeros(2), torch.zeros(2))).device.type == "meta"


@pytest.mark.parametrize("overrides", [{}, LAYERS], ids=["blocks", "layers"])
@pytest.mark.parametrize("devices", [["cpu", "cpu"], ["cpu", "auto", "cpu"]])
@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is not the CPU here")
def test_stages_on_named_devices_learn_the_same_bits(make, devices, overrides):
    overrides = overrides | {"training.strategy": "decoupled", "training.epochs": 1, "device": "cpu"}
    without, _ = train(make, "without", overrides)
    placed, _ = train(make, "placed", overrides | {"training.strategy_options.devices": devices})
    assert same(without, placed)


# ---------------------------------------------------------------------- compilation


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="there is no C++ compiler")
def test_a_compiled_training_learns_what_an_eager_one_learns(make):
    overrides = {"training.head": "linear", "training.optimizer.lr": 0.005, "training.epochs": 1}
    eager, one = train(make, "eager", overrides)
    compiled, two = train(make, "compiled", overrides | {"training.compile": True})
    for key, tensor in eager.items():
        assert torch.allclose(tensor, compiled[key], rtol=0, atol=1e-4), key
    [before], [after] = phase_events(one), phase_events(two)
    assert before["step_flops"] == after["step_flops"]
    assert before["activation_bytes"] == after["activation_bytes"]
