"""A training that is killed and resumed ends with the bits of one that was not."""

import json
import os
import random
import signal
import time

import pytest
import torch
from processes import fork_server
from torch import nn

from lwexplain import api
from lwexplain.errors import TrainingInterrupted
from lwexplain.models.build import MODELS
from lwexplain.models.staged import StagedModel
from lwexplain.run import Run
from lwexplain.training import loop
from lwexplain.training.checkpoint import BEST, LAST, load_checkpoint
from lwexplain.training.prefix import LivePrefix, PrefixCache
from lwexplain.training.strategies.base import STRATEGIES

EPOCHS, STEPS = 4, 6
OFTEN = {"training.checkpoint_seconds": 1e-9}
"""A checkpoint whenever the loop looks around."""


@pytest.fixture(autouse=True)
def _look_around_often(monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)


def learned(path, file=LAST):
    """What a training has learned: weights and statistics of the model, parameters of the losses."""
    tensors, _ = load_checkpoint(path / "checkpoints" / file)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("model.", "loss."))}


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def curve(run):
    """The log without times."""
    timed = ("seconds", "images_per_second", "peak_memory_bytes")
    return [{key: value for key, value in event.items() if key not in timed} for event in run.read_events()]


# ---------------------------------------------------------------------- killed by the system


def train(path, config, resume):
    api.train(config, run_dir=path, resume=resume, quiet=True)


def train_in_a_process_of_its_own(*arguments):
    loop.LOG_EVERY = 2
    train(*arguments)


def start(*arguments):
    process = fork_server().Process(target=train_in_a_process_of_its_own, args=arguments, daemon=True)
    process.start()
    return process


def steps_done(path):
    """Up to the last checkpoint, of all phases."""
    try:
        position = json.loads((path / "checkpoints" / "last.json").read_text())["position"]
    except FileNotFoundError:
        return 0
    return (position["phase"] * EPOCHS + position["epoch"]) * STEPS + position["step"]


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_a_training_killed_five_times_at_random_moments_ends_with_the_same_bits(make, tmp_path, strategy):
    """Five moments in the first two thirds of the steps, each a little later than a checkpoint."""
    seed = int(os.environ.get("LWEXPLAIN_TEST_SEED", random.randrange(10**6)))
    print(f"the moments are those of LWEXPLAIN_TEST_SEED={seed}")
    moments = random.Random(seed)
    overrides = OFTEN | {"training.strategy": strategy, "training.epochs": EPOCHS, "training.prefix_cache": "memory"}
    config = make("not trained", overrides)[0].config
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(whole, config, False)
    exit_codes = []
    for step in sorted(moments.randrange(2 * steps_done(whole) // 3) for _ in range(5)):
        process = start(killed, config, killed.exists())
        while process.is_alive() and steps_done(killed) < step:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.015))
        process.kill()
        process.join()
        exit_codes.append(process.exitcode)
    assert exit_codes == [-signal.SIGKILL] * 5
    train(killed, config, killed.exists())
    assert_same(Run.open(whole), Run.open(killed))


# ---------------------------------------------------------------------- recipes of every kind


class Died(Exception):
    """Stands for the process being killed between two steps."""


def die(*_):
    raise Died


def die_after(trainer, steps):
    """Let the trainer die instead of making one step more."""
    step, left = trainer._step, list(range(steps))

    def counted(phase, batch):
        if not left:
            raise Died
        left.pop()
        step(phase, batch)

    trainer._step = counted


def die_and_resume(make, name, overrides, deaths):
    """Train until so many steps are made, resume until so many more are made, and so on; at last resume to the end."""
    for number, steps in enumerate(deaths):
        trainer, run = make(name, OFTEN | overrides)
        die_after(trainer, steps)
        with pytest.raises(Died):
            trainer.fit(run, resume=number > 0)
    trainer, run = make(name, OFTEN | overrides)
    trainer.fit(run, resume=True)
    return trainer, run


def assert_resumes(make, overrides, deaths=(3, 2, 4)):
    trainer, whole = make("whole", overrides)
    trainer.fit(whole)
    _, killed = die_and_resume(make, "killed", overrides, deaths)
    assert_same(whole, killed)
    return whole, killed


def assert_same(whole, killed):
    assert same(learned(whole.path), learned(killed.path))
    assert same(learned(whole.path, BEST), learned(killed.path, BEST))
    assert curve(whole) == curve(killed)


GREEDY = {"training.strategy": "greedy", "training.epochs": 1}
RECIPES = {
    "parts": {"training.accumulate": 2},
    "gradient checkpointing": {"training.gradient_checkpointing": True, "training.strategy": "decoupled"},
    "bf16": GREEDY | {"training.precision": "bf16"},
    "adamw": {"training.optimizer": {"name": "adamw", "lr": 0.003}, "training.strategy": "decoupled"},
    "a warm-up": {"training.schedule": {"name": "cosine", "warmup_epochs": 1}},
    "a loss with parameters": GREEDY | {"training.loss": "predsim"},
    "a loss that sees images": GREEDY | {"training.loss": "infopro", "training.prefix_cache": "memory"},
    "a prefix cache on disk": GREEDY | {"training.prefix_cache": "disk", "training.epochs": 2},
    "a live prefix": GREEDY | {"training.prefix_cache": "off"},
    "layers": GREEDY
    | {
        "model": {"name": "resnet10", "width": 4, "units": "layer", "stages": 4},
        "training.prefix_cache": "memory",
        "data.train_size": 96,
    },
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_resumes_bit_for_bit(make, recipe):
    assert_resumes(make, RECIPES[recipe])


def test_a_loss_learns_parameters_that_a_resume_puts_back(make):
    overrides = GREEDY | {"training.loss": "similarity"}
    whole, _ = assert_resumes(make, overrides)
    fresh, _ = make("whole", overrides)
    for depth in (1, 2, 3):
        assert not torch.equal(learned(whole.path)[f"loss.{depth}.map.weight"], fresh.losses[depth].map.weight)


@pytest.mark.parametrize("strategy", ["bp", "greedy"])
def test_dropout_resumes_with_the_random_state_it_had(make, strategy):
    def factory(input_shape, num_classes, *, width=None, units="block"):
        first = nn.Sequential(nn.Conv2d(input_shape[0], 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3))
        second = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3))
        return StagedModel({"one": first, "two": second}, input_shape, num_classes)

    with MODELS.temporary():
        MODELS.register("of this test")(factory)
        assert_resumes(make, {"model": {"name": "of this test"}, "training.strategy": strategy})


@pytest.mark.parametrize("steps", [6, 11, 13, 24, 25])
def test_the_best_epoch_is_kept_wherever_training_died(make, monkeypatch, steps):
    """Val accuracy is best in the first of two epochs of each stage."""
    evaluate, trainers = loop.evaluate, []

    def falling(model, depths, *rest):
        results = evaluate(model, depths, *rest)
        results[depths[-1]].accuracy = 1 / (1 + trainers[-1].state.position.epoch)
        return results

    def noted(name, overrides):
        trainer, run = make(name, overrides)
        trainers.append(trainer)
        return trainer, run

    monkeypatch.setattr(loop, "evaluate", falling)
    overrides = GREEDY | {"training.keep": "best", "training.epochs": 2}
    _, killed = assert_resumes(noted, overrides, deaths=(steps,))
    _, state = load_checkpoint(killed.checkpoints / BEST)
    assert state == {"phase": "conv3", "epoch": 1, "val_accuracy": 1.0}
    weights = {name: tensor for name, tensor in learned(killed.path).items() if name.startswith("model.")}
    assert same(weights, learned(killed.path, BEST))


def test_stop_auto_resumes_with_what_the_earlier_stages_got_right(make):
    def rule(hits):
        return f"{[int(hit.sum()) for hit in hits]}" if len(hits) == 2 else None

    overrides = GREEDY | {"training.stop": "auto"}
    whole, killed = assert_resumes(lambda name, o: make(name, o, rule), overrides, deaths=(5, 4))
    assert killed.manifest["stopped"] == whole.manifest["stopped"]
    assert killed.manifest["trained_depth"] == 2


# ---------------------------------------------------------------------- a cache that comes or goes


def test_a_prefix_without_room_stays_live_after_a_resume_with_room(make):
    """Its epochs would otherwise take other augmentations than those before."""
    overrides = OFTEN | GREEDY
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrefixCache, "_first_that_holds", lambda *_: None)
        whole_trainer, whole = make("whole", overrides)
        whole_trainer.fit(whole)
        trainer, run = make("run", overrides)
        die_after(trainer, 9)
        with pytest.raises(Died):
            trainer.fit(run)
    trainer, run = make("run", overrides)
    trainer.fit(run, resume=True)
    assert isinstance(trainer.prefix, LivePrefix)
    assert same(learned(whole.path), learned(run.path))


def test_a_cache_that_finds_no_room_after_a_resume_is_said_to_be_left_out(make, monkeypatch):
    overrides = OFTEN | GREEDY
    trainer, run = make("run", overrides)
    die_after(trainer, 9)
    with pytest.raises(Died):
        trainer.fit(run)
    monkeypatch.setattr(PrefixCache, "_first_that_holds", lambda *_: None)
    trainer, run = make("run", overrides)
    trainer.fit(run, resume=True)
    assert [event["stage"] for event in run.read_events() if event["event"] == "no_prefix_cache"] == ["conv2"]


# ---------------------------------------------------------------------- the log


def test_what_was_logged_after_the_last_checkpoint_is_logged_once(make):
    """The only checkpoint before the death is that of the start."""
    overrides = {"training.checkpoint_seconds": 1000}
    trainer, whole = make("whole", overrides)
    trainer.fit(whole)
    trainer, killed = make("killed", overrides)
    die_after(trainer, 8)
    with pytest.raises(Died):
        trainer.fit(killed)
    assert [event["event"] for event in killed.read_events()] == ["phase", "epoch"]
    trainer, killed = make("killed", overrides)
    trainer.fit(killed, resume=True)
    assert_same(whole, killed)


def test_an_epoch_that_was_interrupted_counts_in_full(make, monkeypatch):
    """Six steps of 20 ms, four of them before the interruption."""
    step = loop.Trainer._step

    def slow(trainer, phase, batch):
        time.sleep(0.02)
        step(trainer, phase, batch)

    monkeypatch.setattr(loop.Trainer, "_step", slow)
    _, run = die_and_resume(make, "run", {"training.epochs": 1}, deaths=(4,))
    [line] = [event for event in run.read_events() if event["event"] == "epoch"]
    assert line["seconds"] > 6 * 0.02
    assert line["images_per_second"] * line["seconds"] == pytest.approx(6 * 32, rel=0.02)
    assert run.manifest["seconds"] >= run.manifest["costs"]["seconds_by_phase"]["all stages"] == line["seconds"]


def test_an_epoch_that_died_after_its_last_step_is_closed_as_it_would_have_been(make):
    """The checkpoint is of the last step; the line of the log still names its learning rate and its speed."""
    trainer, whole = make("whole")
    trainer.fit(whole)
    trainer, killed = make("killed", OFTEN)
    trainer._end_epoch = die
    with pytest.raises(Died):
        trainer.fit(killed)
    assert load_checkpoint(killed.checkpoints / LAST)[1]["position"]["step"] == 6
    trainer, killed = make("killed", OFTEN)
    trainer.fit(killed, resume=True)
    assert_same(whole, killed)
    assert all(event["images_per_second"] > 0 for event in killed.read_events() if event["event"] == "epoch")


def test_a_training_that_died_before_its_end_was_noted_is_finished(make):
    trainer, run = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.TrainingLog, "finish", die)
        with pytest.raises(Died):
            trainer.fit(run)
    weights = learned(run.path)
    assert run.status == "training"
    trainer, run = make()
    trainer.fit(run, resume=True)
    assert run.status == "trained"
    assert same(learned(run.path), weights)
    assert [event["event"] for event in run.read_events()].count("end") == 1


def test_what_a_killed_process_was_writing_is_cleared_away(make):
    trainer, run = make()
    trainer.interruption.asked = True
    with pytest.raises(TrainingInterrupted):
        trainer.fit(run)
    leftover = run.checkpoints / ".last.safetensors.1234.tmp"
    leftover.write_bytes(b"half of a checkpoint")
    trainer, run = make()
    trainer.fit(run, resume=True)
    assert not leftover.exists()
    assert run.status == "trained"
