"""A checkpoint that does not hold a place of this training and its tensors is refused in one clear sentence."""

import copy
import os

import pytest
import torch

from lwexplain.errors import CheckpointError, RunError
from lwexplain.training import loop
from lwexplain.training.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint


@pytest.fixture
def interrupted(make, monkeypatch):
    """A greedy training that was killed in the middle of its second phase."""
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    overrides = {
        "training.strategy": "greedy", "training.epochs": 2, "training.checkpoint_seconds": 1e-9,
        "training.keep": "best",
    }  # fmt: skip
    trainer, run = make("run", overrides)
    steps = []

    class Died(Exception):
        pass

    def step(phase, batch, do=trainer._step):
        steps.append(phase)
        if len(steps) > 2 * len(trainer.train_batches) + len(trainer.train_batches) + 3:
            raise Died
        do(phase, batch)

    trainer._step = step
    with pytest.raises(Died):
        trainer.fit(run, quiet=True)
    return lambda: make("run", overrides)


def tamper(run, change):
    path = run.checkpoints / LAST
    tensors, state = load_checkpoint(path)
    tensors, state = dict(tensors), copy.deepcopy(state)
    change(tensors, state, state["position"])
    save_checkpoint(path, tensors, state)


def put(**fields):
    return lambda tensors, state, position: position.update(fields)


def drop(prefix):
    def change(tensors, _state, _position):
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    return change


def swap(prefix, tensor):
    def change(tensors, _state, _position):
        name = sorted(name for name in tensors if name.startswith(prefix))[0]
        tensors[name] = tensor

    return change


STATES = {
    "phase of text": (put(phase="1"), "position.phase is '1', expected a whole number"),
    "phase below zero": (put(phase=-1), "position.phase is -1"),
    "phase beyond the plan": (put(phase=7), "position.phase is 7, and the training has 3 phases"),
    "epoch beyond the recipe": (put(epoch=99), "epoch 99"),
    "step of a fraction": (put(step=1.5), "position.step is 1.5"),
    "step beyond the epoch": (put(step=10**6), "step 1000000"),
    "step of true": (put(step=True), "position.step is True"),
    "seconds of text": (put(seconds="1"), "position.seconds is '1'"),
    "seconds below zero": (put(epoch_seconds=-1.0), "position.epoch_seconds"),
    "a log of a terabyte": (put(events_bytes=10**12), r"expected at least 1,000,000,000,000"),
    "an accuracy above one": (put(best_accuracy=1.5), "position.best_accuracy is 1.5"),
    "stopped by a list": (put(stopped=[1]), "position.stopped"),
    "live prefix of text": (put(live_prefix="no"), "position.live_prefix is 'no'"),
    "a field too many": (put(more=1), "expected the fields best_accuracy"),
    "a field too few": (lambda t, s, p: p.pop("step"), "expected the fields best_accuracy"),
    "no position": (lambda t, s, p: s.pop("position"), "position is None"),
    "position of a list": (lambda t, s, p: s.update(position=[1]), "position is "),
    "optimizer of text": (lambda t, s, p: s.update(optimizer="yes"), "whether it holds an optimizer"),
    "an optimizer denied": (lambda t, s, p: s.update(optimizer=False), "contradict each other"),
    "no processes": (lambda t, s, p: s.pop("processes"), "number of processes"),
    "processes below one": (lambda t, s, p: s.update(processes=0), "number of processes"),
    "other processes": (lambda t, s, p: s.update(processes=3), "trained by 3 processes"),
    "no state of the optimizer": (drop("optimizer."), "the state of the optimizer is missing"),
    "momentum of another shape": (swap("optimizer.", torch.zeros(7)), "expected floats"),
    "momentum of whole numbers": (swap("optimizer.", torch.zeros(7, dtype=torch.int64)), "expected floats"),
    "momentum of a stranger": (
        lambda t, s, p: t.update({"optimizer.999.momentum_buffer": torch.zeros(3)}), "belongs to no parameter"
    ),
    "no random state": (drop("rng.cpu"), "rng.cpu.0 is missing"),
    "a random state cut short": (swap("rng.cpu", torch.zeros(9, dtype=torch.uint8)), r"torch.uint8 \(9,\)"),
    "hits of another length": (swap("val_correct", torch.zeros(2, dtype=torch.bool)), "val_correct"),
    "hits of numbers": (swap("val_correct", torch.zeros(30)), "val_correct"),
    "hits of no depth": (
        lambda t, s, p: t.update({"val_correct.77": torch.zeros(30, dtype=torch.bool)}), "val_correct.'77'"
    ),
    "no running sums": (drop("meter"), "running sums are not there"),
    "running sums too many": (swap("meter.sums", torch.zeros(99, dtype=torch.float64)), "running sums are not there"),
    "a weight missing": (swap("model.", torch.zeros(5, 5)), "does not fit the model"),
    "no weights": (drop("model."), "weights are missing"),
    "a weight too many": (lambda t, s, p: t.update({"model.more": torch.zeros(1)}), "weights too many"),
    "a weight that is no number": (
        lambda t, s, p: t.update({n: v * float("nan") for n, v in t.items() if n.startswith("model.") and v.ndim == 4}),
        "is not finite",
    ),
}  # fmt: skip


def test_no_tampered_state_is_gone_on_from_and_the_true_one_is(interrupted):
    trainer, run = interrupted()
    path = run.checkpoints / LAST
    whole, log = path.read_bytes(), run.events_path.read_bytes()
    for name, (change, words) in STATES.items():
        path.write_bytes(whole)
        run.events_path.write_bytes(log)
        tamper(run, change)
        trainer, run = interrupted()
        with pytest.raises(RunError, match=words) as caught:
            trainer.fit(run, resume=True, quiet=True)
        assert str(run.path) in str(caught.value), name
        assert "\n" not in str(caught.value), name
    path.write_bytes(whole)
    run.events_path.write_bytes(log)
    best = run.checkpoints / BEST
    kept = best.read_bytes()
    for spoil in (best.unlink, lambda: best.write_bytes(kept[:100]), lambda: os.symlink(path, best)):
        spoil()
        trainer, run = interrupted()
        with pytest.raises(CheckpointError, match=r"best\.safetensors"):
            trainer.fit(run, resume=True, quiet=True)
        best.unlink(missing_ok=True)
    best.write_bytes(kept)
    trainer, run = interrupted()
    trainer.fit(run, resume=True, quiet=True)
    assert run.status == "trained"
