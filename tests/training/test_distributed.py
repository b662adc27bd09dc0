"""Two gloo processes on the CPU against one process that sees the whole batch."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import Pair, as_torchrun, fork_server, free_port
from torch import nn

from lwexplain import api, cli
from lwexplain.errors import CheckpointError, LwexplainError, TrainingError
from lwexplain.processes import World, current_world
from lwexplain.run import Run
from lwexplain.training import checkpoint, loop
from lwexplain.training.checkpoint import LAST, load_checkpoint
from lwexplain.training.distributed import SynchronisedBatchNorm, all_rows, synchronise_batch_norm
from lwexplain.training.prefix import PrefixCache

SMALL = {
    "seed": 6,
    "data": {
        "name": "synthetic",
        "batch_size": 32,
        "augment": {"crop": 1, "flip": True, "cutout": 2},
        "options": {"samples": 190, "size": 8, "classes": 3, "difficulty": 0.2},
    },
    "model": {"name": "resnet10", "width": 4},
    "training": {"epochs": 1, "head": "linear", "optimizer": {"lr": 0.005}},
}
"""137 images for training, 4 steps an epoch, and 15 for val. With linear heads, a small learning rate and few steps
rounding is not amplified: see the test of that. (Where a ReLU of a small network stands near 0, one step can turn a
difference of 1e-7 into one of 1e-3; with this seed none does.)"""

TWO_LAYERS = {"model.name": "cnn", "model.options.depth": 2}
"""A smaller model, where nothing more is needed."""


@pytest.fixture(scope="module")
def pair():
    made = Pair()
    yield made
    made.end()


def train(path, overrides, **options):
    """Train into ``path`` in each process; a path is all that comes back."""
    return api.train(SMALL, overrides, run_dir=path, quiet=True, **options).path


def learned(path):
    """What a training has learned: weights and statistics of the model, parameters of the losses."""
    tensors, _ = load_checkpoint(Path(path) / "checkpoints" / LAST)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(("model.", "loss."))}


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def events(path, kind):
    return [event for event in Run.open(path).read_events() if event["event"] == kind]


# ---------------------------------------------------------------------- the same weights

RECIPES = {
    "bp": {"training.strategy": "bp", "training.epochs": 2},
    "deep supervision": {"training.strategy": "deep_supervision"},
    "greedy with a prefix cache": {
        "training.strategy": "greedy",
        "training.prefix_cache": "memory",
        "training.epochs": 2,
    },
    "greedy with a live prefix": {"training.strategy": "greedy", "training.prefix_cache": "off"},
    "decoupled": {"training.strategy": "decoupled"},
    "parts": {"training.strategy": "bp", "training.accumulate": 2},
    "parts and gradient checkpointing": {
        "training.strategy": "deep_supervision",
        "training.accumulate": 2,
        "training.gradient_checkpointing": True,
    },
    "similarity": {"training.strategy": "decoupled", "training.loss": "similarity"},
    "similarity in parts": {
        "training.strategy": "greedy",
        "training.loss": "similarity",
        "training.accumulate": 2,
    },
    "separability": {
        "training.strategy": "decoupled",
        "training.loss": "separability",
        "training.loss_options": {"measure": "fisher"},
    },
    "images for the loss": {"training.strategy": "greedy", "training.loss": "infopro", "model.width": 8},
    "mlp_sr heads": {"training.strategy": "greedy", "training.head": "mlp_sr"},
    "layers, the best epoch": {
        "training.strategy": "decoupled",
        "model.units": "layer",
        "training.keep": "best",
        "training.epochs": 2,
    },
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_learn_what_one_learns(pair, tmp_path, recipe):
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, RECIPES[recipe])
    assert pair(train, two, RECIPES[recipe]) == [two, two]
    assert largest_difference(learned(one), learned(two)) < 1e-5
    for alone, together in zip(events(one, "epoch"), events(two, "epoch"), strict=True):
        for key in ("train_accuracy", "val_accuracy"):
            assert together[key] == alone[key]
        assert together["train_loss"] == pytest.approx(alone["train_loss"], abs=1e-5)
        if "training.loss" not in RECIPES[recipe]:  # those that compare samples see fewer of them in an evaluation
            assert together["val_loss"] == pytest.approx(alone["val_loss"], abs=1e-5)
    for alone, together in zip(events(one, "phase"), events(two, "phase"), strict=True):
        assert together["parameters"] == alone["parameters"]
        assert together["step_flops"] == pytest.approx(alone["step_flops"], rel=0.05)


@pytest.mark.parametrize("recipe", ["bp", "parts and gradient checkpointing", "similarity in parts"])
def test_the_setting_does_not_amplify_rounding(monkeypatch, tmp_path, recipe):
    """One process whose initial weights are off by 1e-7 of themselves ends within 2e-6, so that 1e-5 says something."""
    train(tmp_path / "plain", RECIPES[recipe])
    build = loop.build_trainable

    def perturbed(*arguments):
        model, generator = build(*arguments), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape, generator=generator).sign())
        return model

    monkeypatch.setattr(loop, "build_trainable", perturbed)
    train(tmp_path / "perturbed", RECIPES[recipe])
    difference = largest_difference(learned(tmp_path / "plain"), learned(tmp_path / "perturbed"))
    assert 0 < difference < 2e-6


def test_a_last_batch_of_val_with_fewer_images_than_processes_counts(pair, tmp_path):
    """17 images in batches of 16."""
    overrides = TWO_LAYERS | {"data.options.samples": 213, "data.train_size": 16, "data.batch_size": 4}
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, overrides)
    assert Run.open(one).manifest["data"]["sizes"]["val"] == 17
    pair(train, two, overrides)
    [alone], [together] = events(one, "epoch"), events(two, "epoch")
    assert together["val_loss"] == pytest.approx(alone["val_loss"], abs=1e-4)
    assert together["val_accuracy"] == alone["val_accuracy"]


# ---------------------------------------------------------------------- its parts


def whole_batch(positions):
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(8, 3, *positions, generator=generator) + 1
    return x, torch.randn(x.shape, generator=generator)


def normalise(norm, x, weights):
    """Two steps: outputs, gradients of the input and of the parameters, and running statistics."""
    norm.train()
    x = x.clone().requires_grad_()
    for _ in range(2):
        y = norm(x)
        (y.sin() * weights).sum().backward()
    parameters = {name: parameter.grad for name, parameter in norm.named_parameters()}
    norm.eval()
    evaluated = norm(x.detach())
    return {"y": y.detach(), "x": x.grad, "evaluated": evaluated.detach()}, parameters, dict(norm.named_buffers())


def normalise_rows(kind, positions, options, first_rows):
    rows = [slice(None, first_rows), slice(first_rows, None)][current_world().rank]
    x, weights = whole_batch(positions)
    holder = nn.Sequential(kind(3, **options))
    nn.init.constant_(next(holder.parameters(), torch.empty(1)), 1.5)
    synchronise_batch_norm(holder, torch.device("cpu"))
    assert type(holder[0]) is SynchronisedBatchNorm
    return normalise(holder[0], x[rows], weights[rows])


@pytest.mark.parametrize("first_rows", [4, 3, 7])
@pytest.mark.parametrize(
    ("kind", "positions"), [(nn.BatchNorm2d, (4, 5)), (nn.BatchNorm1d, ()), (nn.BatchNorm1d, (6,))], ids=str
)
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"momentum": 0.3, "eps": 0.1}])
def test_synchronised_batch_norm_is_batch_norm_of_the_whole_batch(pair, kind, positions, options, first_rows):
    whole = kind(3, **options)
    nn.init.constant_(next(whole.parameters(), torch.empty(1)), 1.5)
    rows, parameters, buffers = normalise(whole, *whole_batch(positions))
    found = pair(normalise_rows, kind, positions, options, first_rows)
    for name, expected in rows.items():
        assert torch.allclose(torch.cat([part[0][name] for part in found]), expected, atol=1e-5)
    for name, expected in parameters.items():
        assert torch.allclose(found[0][1][name] + found[1][1][name], expected, rtol=1e-4, atol=1e-4)
    for name, expected in buffers.items():
        assert torch.equal(found[0][2][name], found[1][2][name])
        assert torch.allclose(found[0][2][name], expected, rtol=1e-5)


def test_a_normalisation_that_cannot_be_synchronised_is_refused():
    with pytest.raises(TrainingError, match="LazyBatchNorm2d 'norm' cannot be synchronised"):
        synchronise_batch_norm(nn.ModuleDict({"norm": nn.LazyBatchNorm2d()}), torch.device("cpu"))


def rows_and_gradients():
    rank = current_world().rank
    rows = (torch.arange(6.0).reshape(3, 2) + 10 * rank).requires_grad_()
    everything = all_rows(rows)
    ((rank + 1) * everything.prod(1).sum() ** 2).backward()
    with torch.no_grad():
        own = all_rows(rows)
    return everything.detach(), rows.grad, own


def test_all_rows_are_those_of_all_processes_with_the_gradients_of_all(pair):
    found = pair(rows_and_gradients)
    rows = torch.cat([torch.arange(6.0).reshape(3, 2), torch.arange(6.0).reshape(3, 2) + 10]).requires_grad_()
    (3 * rows.prod(1).sum() ** 2).backward()  # the loss of one process, and twice that of the other
    for rank, (everything, gradient, own) in enumerate(found):
        mine = slice(3 * rank, 3 * rank + 3)
        assert torch.equal(everything, rows)
        assert torch.allclose(gradient, rows.grad[mine])
        assert torch.equal(own, rows[mine])


def test_alone_all_rows_are_the_own_ones():
    rows = torch.ones(3, 2, requires_grad=True)
    assert all_rows(rows) is rows


def exchange():
    world = current_world()
    mine = torch.tensor([1.0, 2.0]) * (world.rank + 1)
    total = world.total(mine)
    flags = world.any(world.rank == 1, False, True)
    return (world.rank, world.size, world.is_main, world.is_alone), mine, total, flags, world.gather(mine)


def test_a_world_sums_gathers_and_agrees(pair):
    for rank, (place, mine, total, flags, gathered) in enumerate(pair(exchange)):
        assert place == (rank, 2, rank == 0, False)
        assert mine.tolist() == [rank + 1, 2 * (rank + 1)]  # as it was
        assert total.tolist() == [3, 6]
        assert flags == [True, False, True]
        assert [part.tolist() for part in gathered] == [[1, 2], [2, 4]]


def test_a_world_of_one_keeps_what_it_has():
    world = World()
    assert (world.is_main, world.is_alone, world.any(True, False)) == (True, True, [True, False])
    assert world.total(torch.tensor([2])).tolist() == [2]
    with pytest.raises(ValueError, match="as it was"), world.first_alone():
        raise ValueError("as it was")


def fail_in(rank):
    world = current_world()
    try:
        with world.first_alone():
            if world.rank == rank:
                raise ValueError("the reason")
    except (ValueError, TrainingError) as error:
        return f"{type(error).__name__}: {error}"


def test_an_error_where_the_first_process_works_alone_is_one_of_all(pair):
    assert pair(fail_in, 0) == [
        "ValueError: the reason",
        "TrainingError: the first process cannot go on; it says why",
    ]
    assert pair(fail_in, None) == [None, None]


def train_without_room_in(rank, path):
    """Greedy, with a prefix cache that finds no room in one process."""
    allocate = PrefixCache._allocate

    def no_room(self, *arguments):
        if current_world().rank == rank:
            raise TrainingError("no room")
        return allocate(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrefixCache, "_allocate", no_room)
        return train(path, TWO_LAYERS | {"training.strategy": "greedy"})


def test_a_prefix_cache_without_room_in_one_process_is_left_out_in_all(pair, tmp_path):
    live, two = tmp_path / "live", tmp_path / "two"
    pair(train_without_room_in, 1, two)
    [told] = events(two, "no_prefix_cache")
    assert told["reason"] == "another process has no room for its prefix cache"
    train(live, TWO_LAYERS | {"training.strategy": "greedy", "training.prefix_cache": "off"})
    assert largest_difference(learned(live), learned(two)) < 1e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.batch_size": 33}, "33 images in a batch cannot be shared evenly by 2 processes"),
        ({"data.batch_size": 2, "training.accumulate": 2}, "2 images in a batch cannot be divided into 4 parts"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_made(pair, tmp_path, overrides, message):
    for found in pair(refused, tmp_path / "run", overrides):
        assert message in found
    assert not (tmp_path / "run").exists()


def refused(path, overrides, resume=False):
    try:
        return str(train(path, overrides, resume=resume))
    except LwexplainError as error:
        return str(error)


# ---------------------------------------------------------------------- one of them writes and prints


def train_watched(path):
    """Train and return which paths of the run directory this process has opened for writing, made or renamed."""
    touched, watching = [], True

    def watch(event, arguments):
        if not watching or event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.truncate"):
            return
        writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and str(arguments[0]).startswith(str(path.parent)):
            touched.append((event, str(arguments[0])))

    sys.addaudithook(watch)
    train(path, TWO_LAYERS | {"training.strategy": "greedy"})
    watching = False
    return touched


def test_only_the_first_process_writes(pair, tmp_path):
    first, second = pair(train_watched, tmp_path / "run")
    assert {event for event, _ in first} >= {"open", "os.rename", "os.mkdir"}
    assert second == []


def command(rank, port, outputs, arguments):
    """The command line in a process of its own, as torchrun starts it; what it prints goes to files."""
    os.environ |= as_torchrun(rank, port)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(outputs / f"{name}{rank}", os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["lwexplain", *arguments]
    try:
        cli.main()
    finally:
        threads = {Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")}
        (outputs / f"threads{rank}").write_text(" ".join(sorted(threads)))


def run_command(outputs, *arguments):
    """Exit codes, and what the two processes have printed to stdout and stderr."""
    context, port = fork_server(), free_port()
    arguments = [str(argument) for argument in arguments]
    processes = [context.Process(target=command, args=(rank, port, outputs, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    printed = [[(outputs / f"{name}{rank}").read_text() for name in ("out", "err")] for rank in range(2)]
    return [process.exitcode for process in processes], *printed


CONFIG = """
data: {name: synthetic, batch_size: 32, options: {samples: 190, size: 8, classes: 3}}
model: {name: cnn, width: 2, options: {depth: 2}}
training: {strategy: bp, epochs: 25, head: linear, optimizer: {lr: 0.01}}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_only_the_first_process_prints_and_no_thread_is_left(tmp_path, config):
    """A thread of the process group that outlives Python can abort a process that has done everything."""
    codes, first, second = run_command(tmp_path, "train", config, "training.epochs=2", "--run-dir", tmp_path / "run")
    assert codes == [0, 0]
    assert re.search(r"2 +conv2 +\d", first[0])
    assert "next: lwexplain analyze" in first[0]
    assert (first[1], second) == ("", ["", ""])
    assert "gloo" not in (tmp_path / "threads0").read_text() + (tmp_path / "threads1").read_text()


def test_a_failed_training_ends_both_with_one_message_and_no_thread_is_left(tmp_path, config):
    codes, first, second = run_command(
        tmp_path, "train", config, "training.optimizer.lr=1e30", "--run-dir", tmp_path / "run"
    )
    assert codes == [2, 2]
    assert re.fullmatch(r"error: (the loss|weight \S+) is [^\n]+\n", first[1])
    assert (first[0], second) == ("", ["", ""])
    assert "gloo" not in (tmp_path / "threads0").read_text() + (tmp_path / "threads1").read_text()
    assert Run.open(tmp_path / "run").status == "failed"


def train_on_a_full_disk(path):
    """The second checkpoint finds no room."""
    save, calls = checkpoint.save_file, iter(range(100))

    def full(*arguments, **options):
        if next(calls) > 0:
            raise OSError(28, "No space left on device")
        save(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        return refused(path, TWO_LAYERS)


def test_a_disk_that_is_full_for_the_first_process_ends_both(pair, tmp_path):
    first, second = pair(train_on_a_full_disk, tmp_path / "run")
    assert "No space left on device" in first
    assert second == "the first process cannot go on; it says why"


def test_no_default_argument_of_torch_can_hold_the_process_group():
    """It would, where torch imported the module with them after the group is made."""
    program = "import sys, lwexplain.training.distributed; print('torch.distributed.nn.functional' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_an_error_in_the_first_process_ends_both_with_one_message(tmp_path, config):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    codes, first, second = run_command(tmp_path, "train", config, "--run-dir", tmp_path / "run")
    assert codes == [2, 2]
    assert re.fullmatch(r"error: \S+run exists and is not empty; [^\n]+\n", first[1])
    assert (first[0], second) == ("", ["", ""])


# ---------------------------------------------------------------------- interrupted, and gone on


def test_sigterm_to_torchrun_saves_and_a_resumed_run_ends_with_the_same_bits(pair, tmp_path, config):
    """Between two epochs too, although they are shorter than the steps between two looks around."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert pair(train_config, config, whole) == ["trained", "trained"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    process = subprocess.Popen(
        [*torchrun, "-m", "lwexplain", "train", config, "--run-dir", run],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = run / "events.jsonl"
    while process.poll() is None and not (log.exists() and '"epoch": 2' in log.read_text()):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    told = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, errors
    mend = f"torchrun --nproc_per_node=2 -m lwexplain train {run}/config.yaml --run-dir {run} --resume"
    assert told[0].endswith(f"everything so far is saved: go on with {mend}")
    assert Run.open(run).status == "training"
    assert 2 <= len(events(run, "epoch")) < 25

    with pytest.raises(CheckpointError, match=r"trained by 2 processes and now there are 1.*--nproc_per_node=2"):
        api.train(config, run_dir=run, resume=True)
    assert pair(train_config, config, run, True) == ["trained", "trained"]
    expected, found = learned(whole), learned(run)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert [line["train_loss"] for line in events(run, "epoch")] == [
        line["train_loss"] for line in events(whole, "epoch")
    ]


def train_config(config, path, resume=False):
    return api.train(config, run_dir=path, resume=resume, quiet=True).status


def test_two_processes_do_not_go_on_with_a_run_of_one(pair, tmp_path):
    trained = train(tmp_path / "run", TWO_LAYERS)
    Run.open(trained).update(status="training")
    for message in pair(refused, trained, TWO_LAYERS, True):
        assert "trained by 1 processes and now there are 2; resume with torchrun --nproc_per_node=1" in message
