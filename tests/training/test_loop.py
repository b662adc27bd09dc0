import json

import pytest
import torch

from lwexplain.errors import CheckpointError, ConfigError, RunError, TrainingError, TrainingInterrupted
from lwexplain.training import loop
from lwexplain.training.checkpoint import LAST, load_checkpoint
from lwexplain.training.strategies.base import STRATEGIES


class Died(Exception):
    """Stands for the process being killed between two steps."""


def final(run):
    tensors, state = load_checkpoint(run.checkpoints / LAST)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}, state


def die_at(trainer, monkeypatch, step):
    """Let the trainer save after every step and die before the given step of the whole training."""
    count = iter(range(10**6))
    original = trainer._set_learning_rate

    def counted(position):
        if next(count) == step:
            raise Died
        return original(position)

    monkeypatch.setattr(trainer, "_set_learning_rate", counted)


@pytest.mark.parametrize("strategy", STRATEGIES.names())
@pytest.mark.parametrize("step", [3, 7, 9])
def test_a_killed_training_resumes_bit_for_bit(make, monkeypatch, strategy, step):
    """Killed mid-epoch, right after an epoch, and in a later stage; checkpoints fall on other steps than the death."""
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    overrides = {"training.strategy": strategy, "training.checkpoint_seconds": 1e-9}
    trainer, whole = make("whole", overrides)
    trainer.fit(whole)
    trainer, killed = make("killed", overrides)
    die_at(trainer, monkeypatch, step)
    with pytest.raises(Died):
        trainer.fit(killed)
    trainer, killed = make("killed", overrides)
    trainer.fit(killed, resume=True)
    expected, state = final(whole)
    weights, resumed_state = final(killed)
    assert expected.keys() == weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert state["position"]["phase"] == resumed_state["position"]["phase"]
    log = [
        [(e.get("stage"), e.get("epoch"), e.get("train_loss"), e.get("val_accuracy")) for e in r.read_events()]
        for r in (whole, killed)
    ]
    assert log[0] == log[1]


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_adamw_resumes_bit_for_bit(make, monkeypatch, strategy):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    overrides = {
        "training.strategy": strategy,
        "training.optimizer": {"name": "adamw", "lr": 0.003},
        "training.checkpoint_seconds": 1e-9,
    }
    trainer, whole = make("whole", overrides)
    trainer.fit(whole)
    trainer, killed = make("killed", overrides)
    die_at(trainer, monkeypatch, 5)
    with pytest.raises(Died):
        trainer.fit(killed)
    trainer, killed = make("killed", overrides)
    trainer.fit(killed, resume=True)
    assert all(torch.equal(final(killed)[0][name], tensor) for name, tensor in final(whole)[0].items())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(make):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer, run = make(name, {"seed": seed})
        trainer.fit(run)
        runs.append(final(run)[0])
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_a_signal_saves_a_checkpoint_and_says_how_to_go_on(make):
    trainer, run = make()
    trainer.interruption.asked = True
    with pytest.raises(TrainingInterrupted, match="--resume"):
        trainer.fit(run)
    assert final(run)[1]["position"]["step"] == 1
    trainer, run = make()
    trainer.fit(run, resume=True)
    assert run.status == "trained"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(make, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    trainer, run = make("run", {"training.checkpoint_seconds": 1e-9})
    calls = iter(range(100))
    loss = trainer.losses[3]
    loss.register_forward_hook(lambda *call: call[-1] * (float("nan") if next(calls) == 4 else 1.0))
    with pytest.raises(TrainingError, match=r"loss is nan in stage 'conv3', epoch 1, step 5.*last good checkpoint"):
        trainer.fit(run)
    weights, state = final(run)
    assert state["position"]["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert run.status == "failed"
    assert "nan" in run.manifest["progress"]


def test_weights_that_are_not_finite_are_never_saved(make):
    trainer, run = make()
    trainer.fit(run)
    before = (run.checkpoints / LAST).read_bytes()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("inf"))
    with pytest.raises(TrainingError, match="not finite"):
        trainer.save()
    assert (run.checkpoints / LAST).read_bytes() == before


def test_a_checkpoint_cut_in_half_is_one_clear_error(make):
    trainer, run = make()
    trainer.fit(run)
    path = run.checkpoints / LAST
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    trainer, run = make()
    with pytest.raises(CheckpointError, match=r"last\.safetensors is cut short or damaged"):
        trainer.fit(run, resume=True)


def test_a_checkpoint_with_one_changed_byte_is_refused(make):
    trainer, run = make()
    trainer.fit(run)
    path = run.checkpoints / LAST
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="digest"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_model_is_refused(make):
    trainer, run = make()
    trainer.fit(run)
    trainer, run = make("run", {"model.width": 8})
    with pytest.raises(CheckpointError, match="does not fit"):
        trainer.fit(run, resume=True)


def test_a_full_disk_leaves_the_previous_checkpoint_whole(make, monkeypatch):
    trainer, run = make()
    trainer.fit(run)
    before = (run.checkpoints / LAST).read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lwexplain.training.checkpoint.save_file", full)
    with pytest.raises(RunError, match="No space left on device"):
        trainer.save()
    assert (run.checkpoints / LAST).read_bytes() == before
    assert [path.name for path in run.checkpoints.iterdir() if path.name.endswith(".tmp")] == []


def test_greedy_keeps_a_checkpoint_of_every_stage_and_records_all_files(make):
    trainer, run = make("run", {"training.strategy": "greedy"})
    trainer.fit(run)
    stages = [f"checkpoints/stage_{depth:02d}.safetensors" for depth in (1, 2, 3)]
    assert set(stages) < set(run.manifest["files"])
    tensors, state = load_checkpoint(run.path / stages[1])
    assert state == {"stage": "conv2", "depth": 2}
    assert torch.equal(tensors["stage.0.weight"], trainer.model.body[1].state_dict()["0.weight"])


def test_events_hold_what_a_training_curve_needs(make):
    trainer, run = make("run", {"training.strategy": "decoupled"})
    trainer.fit(run)
    epochs = [event for event in run.read_events() if event["event"] == "epoch"]
    assert [(event["epoch"], event["depth"]) for event in epochs] == [(e, d) for e in (1, 2) for d in (1, 2, 3)]
    for event in epochs:
        assert 0 <= event["val_accuracy"] <= 1
        assert event["seconds"] > 0
        assert event["images_per_second"] > 0
        assert event["peak_memory_bytes"] > 0
        json.dumps(event, allow_nan=False)


def test_training_never_sees_the_test_split(make, monkeypatch):
    from lwexplain.data.load import load_data

    seen = []
    original = loop.Batches.__init__

    def noting(self, images, *args, **kwargs):
        seen.append(images)
        original(self, images, *args, **kwargs)

    monkeypatch.setattr(loop.Batches, "__init__", noting)
    trainer, _ = make()
    data = load_data(trainer.config.data, trainer.config.seed)
    assert [len(images) for images in seen] == [len(data.train), len(data.val)]
    assert data.for_training().test is None


def test_stop_auto_asks_the_rule_after_every_stage_and_stops_with_its_reason(make):
    asked = []

    def rule(hits):
        asked.append(len(hits))
        return "enough" if len(hits) == 2 else None

    trainer, run = make("run", {"training.strategy": "greedy", "training.stop": "auto"}, rule)
    trainer.fit(run)
    assert asked == [1, 2]
    assert run.manifest["trained_depth"] == 2
    assert run.manifest["stopped"] == "enough"


def test_stop_auto_without_greedy_is_refused(make):
    with pytest.raises(TrainingError, match="greedy"):
        make("run", {"training.stop": "auto"})


@pytest.mark.parametrize("device", ["cuda:77", "abacus"])
def test_a_device_that_is_not_there_is_refused(make, device):
    with pytest.raises(ConfigError, match=device):
        make("run", {"device": device})
