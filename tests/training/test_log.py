import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lwexplain.models.build import MODELS
from lwexplain.models.staged import StagedModel
from lwexplain.training.checkpoint import BEST, LAST, load_checkpoint, under_prefix
from lwexplain.training.evaluation import HeadResult


def events(run, kind):
    return [event for event in run.read_events() if event["event"] == kind]


def weights(run, file):
    tensors, state = load_checkpoint(run.checkpoints / file)
    return under_prefix("model", tensors), state


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture
def one_convolution():
    """A model of one convolution of 4 channels on images (1, 8, 8) and a linear tail; the overrides that choose it."""

    def factory(input_shape, num_classes, *, width=None, units="block"):
        tail = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
        return StagedModel({"conv": nn.Conv2d(1, 4, 3, padding=1, bias=False)}, input_shape, num_classes, tail)

    with MODELS.temporary():
        MODELS.register("of this test")(factory)
        yield {"model": {"name": "of this test"}, "training.epochs": 1}


# ---------------------------------------------------------------------- what a step of a phase costs


def test_the_cost_of_one_convolution_is_that_worked_by_hand(make, one_convolution):
    """Forward and the gradient of the weights, but no gradient of the images: 9 products for 4 channels, 64 places."""
    trainer, run = make("run", one_convolution)
    trainer.fit(run)
    [phase] = events(run, "phase")
    convolution, linear = 2 * 9 * 4 * 64, 2 * 4 * 3
    assert phase["step_flops"] == 2 * convolution + 3 * linear
    assert phase["parameters"] == 9 * 4 + 4 * 3 + 3
    result, gradient = 32 * 4 * 64 * 4, 32 * 4 * 64 * 4
    assert result <= phase["activation_bytes"] <= result + gradient + 8192
    assert (phase["stage"], phase["depth"], phase["frozen"]) == ("all stages", 1, 0)


@pytest.mark.parametrize("strategy", ["bp", "deep_supervision", "decoupled"])
def test_step_flops_are_those_that_torch_counts(make, strategy):
    trainer, run = make("run", {"training.strategy": strategy, "training.epochs": 1})
    trainer.fit(run)
    [phase] = events(run, "phase")
    images, labels, _ = next(trainer.train_batches.epoch())
    with FlopCounterMode(display=False) as counter:
        state = images
        for stage, name in zip(trainer.model.body, ("1", "2", "3"), strict=True):
            state = stage(state.detach() if strategy == "decoupled" else state)
            if name in trainer.model.heads:
                F.cross_entropy(trainer.model.heads[name](state), labels).backward(retain_graph=True)
    once = counter.get_total_flops() / len(images)
    if strategy == "deep_supervision":  # above, each head goes back through the stages alone
        assert phase["step_flops"] < once
    else:
        assert phase["step_flops"] == once


def test_greedy_logs_the_cost_of_each_stage_by_itself(make):
    trainer, run = make("run", {"training.strategy": "greedy", "training.epochs": 1})
    trainer.fit(run)
    phases = events(run, "phase")
    assert [(phase["stage"], phase["depth"], phase["frozen"]) for phase in phases] == [
        ("conv1", 1, 0),
        ("conv2", 2, 1),
        ("conv3", 3, 2),
    ]
    for depth, phase in enumerate(phases, start=1):
        modules = trainer.model.body[depth - 1], trainer.model.head(depth)
        assert phase["parameters"] == sum(p.numel() for module in modules for p in module.parameters())


def test_parameters_of_a_loss_are_counted(make):
    overrides = {"training.strategy": "greedy", "training.loss": "similarity", "training.epochs": 1}
    trainer, run = make("run", overrides)
    trainer.fit(run)
    modules = trainer.model.body[0], trainer.model.head(1), trainer.losses[1]
    counts = [sum(p.numel() for p in module.parameters()) for module in modules]
    assert counts[2] == 9 * 4 * 4
    assert events(run, "phase")[0]["parameters"] == sum(counts)


def test_local_strategies_keep_fewer_activations_than_global_ones(make):
    peaks = {}
    for strategy in ("bp", "deep_supervision", "greedy", "decoupled"):
        overrides = {"training.strategy": strategy, "model.options.depth": 8, "model.options.downsample_every": 8}
        trainer, run = make(strategy, overrides | {"training.head": "linear", "training.epochs": 1})
        trainer.fit(run)
        peaks[strategy] = run.manifest["costs"]["activation_bytes"]
    assert peaks["decoupled"] < 0.5 * peaks["bp"]
    assert peaks["greedy"] < 0.5 * peaks["bp"]
    assert peaks["bp"] <= peaks["deep_supervision"]


# ---------------------------------------------------------------------- sums


@pytest.mark.parametrize("strategy", ["bp", "greedy", "decoupled"])
def test_the_manifest_sums_what_the_log_holds(make, strategy):
    trainer, run = make("run", {"training.strategy": strategy, "training.epochs": 3})
    trainer.fit(run)
    phases, epochs, costs = events(run, "phase"), events(run, "epoch"), run.manifest["costs"]
    names = ["conv1", "conv2", "conv3"] if strategy == "greedy" else ["all stages"]
    assert list(costs["seconds_by_phase"]) == names
    for name, seconds in costs["seconds_by_phase"].items():
        lines = [line for line in epochs if line["depth"] == 3 or line["stage"] == name]
        lines = [line for line in lines if name == "all stages" or line["stage"] == name]
        assert seconds == pytest.approx(sum(line["seconds"] for line in lines if line["depth"] == lines[-1]["depth"]))
    assert 0 < sum(costs["seconds_by_phase"].values()) <= run.manifest["seconds"]
    assert costs["images_per_second"] == epochs[-1]["images_per_second"]
    assert costs["parameters_trained"] == sum(phase["parameters"] for phase in phases)
    assert costs["step_flops"] == sum(phase["step_flops"] for phase in phases)
    assert costs["activation_bytes"] == max(phase["activation_bytes"] for phase in phases)
    assert costs["peak_memory_bytes"] == max(line["peak_memory_bytes"] for line in epochs)
    assert costs["prefix_bytes"] == max(phase.get("prefix_bytes", 0) for phase in phases)
    assert (costs["prefix_bytes"] > 0) == (strategy == "greedy")


def test_images_per_second_are_all_images_of_the_epoch(make):
    trainer, run = make("run", {"training.strategy": "decoupled", "training.epochs": 1})
    trainer.fit(run)
    for line in events(run, "epoch"):
        assert line["images_per_second"] * line["seconds"] == pytest.approx(6 * 32, rel=0.05)


def test_the_end_of_a_training_is_recorded(make):
    trainer, run = make("run", {"training.strategy": "greedy", "training.epochs": 1})
    trainer.fit(run)
    [end] = events(run, "end")
    assert end["seconds"] == run.manifest["seconds"] > 0
    assert run.manifest["status"] == "trained"
    assert run.manifest["trained_depth"] == 3
    assert {"config.yaml", "events.jsonl", "checkpoints/last.safetensors"} < set(run.manifest["files"])


# ---------------------------------------------------------------------- the best epoch


def with_val_accuracies(trainer, monkeypatch, *accuracies):
    """Let val accuracy be as given, one value an epoch, and note the model's weights after each."""
    noted, left = [], list(accuracies)
    evaluate = trainer._evaluate

    def evaluated(phase):
        results = evaluate(phase)
        if left:
            noted.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
            found = results[phase.depth]
            results[phase.depth] = HeadResult(found.loss, left.pop(0), found.correct)
        return results

    monkeypatch.setattr(trainer, "_evaluate", evaluated)
    return noted


@pytest.mark.parametrize("keep", ["last", "best"])
def test_best_holds_the_weights_of_the_epoch_with_the_best_val_accuracy(make, monkeypatch, keep):
    trainer, run = make("run", {"training.keep": keep, "training.epochs": 4})
    epochs = with_val_accuracies(trainer, monkeypatch, 0.3, 0.9, 0.5, 0.9)
    trainer.fit(run)
    best, state = weights(run, BEST)
    last, _ = weights(run, LAST)
    assert state == {"phase": "all stages", "epoch": 2, "val_accuracy": 0.9}
    assert same(best, epochs[1])
    assert not same(best, epochs[3])
    assert same(last, epochs[1] if keep == "best" else epochs[3])


def test_keep_best_ends_every_stage_with_its_best_epoch(make, monkeypatch):
    """The next stage is trained on it."""
    trainer, run = make("run", {"training.keep": "best", "training.epochs": 2, "training.strategy": "greedy"})
    noted = []
    leave = trainer._leave

    def leaving(phase):
        leave(phase)
        noted.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
        if len(noted) < 3:
            accuracies.append(with_val_accuracies(trainer, monkeypatch, 0.8, 0.2))

    accuracies = [with_val_accuracies(trainer, monkeypatch, 0.8, 0.2)]
    monkeypatch.setattr(trainer, "_leave", leaving)
    trainer.fit(run)
    last, _ = weights(run, LAST)
    assert len(noted) == len(accuracies) == 3
    for depth, (kept, epochs) in enumerate(zip(noted, accuracies, strict=True), start=1):
        assert same(kept, epochs[0])
        own = [name for name in kept if name.startswith((f"body.{depth - 1}.", f"heads.{depth}."))]
        assert not all(torch.equal(epochs[0][name], epochs[1][name]) for name in own)
        assert all(torch.equal(kept[name], last[name]) for name in own)


def test_a_stop_rule_is_asked_about_the_weights_that_are_kept(make, monkeypatch):
    asked = []
    overrides = {"training.keep": "best", "training.epochs": 3, "training.strategy": "greedy", "training.stop": "auto"}
    trainer, run = make("run", overrides, lambda hits: asked.append([hit.clone() for hit in hits]))
    evaluate, results = trainer._evaluate, []

    def evaluated(phase):
        results.append((phase.depth, trainer.state.position.phase, evaluate(phase)))
        return results[-1][2]

    monkeypatch.setattr(trainer, "_evaluate", evaluated)
    trainer.fit(run)
    assert len(asked) == 2
    again = [found[depth].correct for depth, _, found in results[3::4]]
    for hits in asked:
        assert all(torch.equal(one, other) for one, other in zip(hits, again, strict=False))
