"""Processes that torchrun starts join once and stay together as long as the script runs; one that ends, ends all."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from processes import as_torchrun, fork_server, free_port

from lwexplain import api
from lwexplain.errors import LwexplainError, TrainingError
from lwexplain.processes import current_world, joined_world, leave_world

TINY = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 190, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 2, "options": {"depth": 2}},
    "training": {"strategy": "bp", "epochs": 1, "head": "linear", "optimizer": {"lr": 0.01}},
}


def run(function, folder):
    """Exit codes of two processes that torchrun would have started, what they leave in ``folder``, and the seconds."""
    context, port, start = fork_server(), free_port(), time.monotonic()
    processes = [context.Process(target=call, args=(function, rank, port, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    said = [path.read_text() if (path := folder / f"said{rank}").exists() else None for rank in range(2)]
    return codes, said, time.monotonic() - start


def call(function, rank, port, folder):
    os.environ |= as_torchrun(rank, port)
    try:
        said = function(rank, folder)
    except LwexplainError as error:
        said = f"error: {error}"
    finally:
        leave_world()
    (folder / f"said{rank}").write_text(said)


def join_eight_times(rank, folder):
    totals = []
    for _ in range(8):
        with joined_world() as world, joined_world() as within:
            assert (world.size, within.size) == (2, 2)
            totals.append(int(world.total(torch.ones(1)).item()))
        assert current_world().is_alone
        if rank == 1:
            time.sleep(0.05)  # the others come to the next call a moment later
    return str(totals)


def test_processes_join_again_and_again(tmp_path):
    codes, said, _ = run(join_eight_times, tmp_path)
    assert codes == [0, 0]
    assert said == [str([2] * 8)] * 2


def train_twice_and_analyze(rank, folder):
    for name in ("one", "two"):
        made = api.train(TINY, run_dir=folder / name, quiet=True)
    table = api.analyze(made, ["head", "knn"], quiet=True)
    return f"{made.status} {len(table)}"


def test_several_calls_in_one_script(tmp_path):
    codes, said, _ = run(train_twice_and_analyze, tmp_path)
    assert codes == [0, 0]
    assert said[0] == said[1]
    assert said[0].startswith("trained ")


def fail_alone(rank, folder):
    with joined_world() as world:
        if world.rank == 1:
            raise TrainingError("the images of this process are gone")
        return str(world.total(torch.ones(1)))


def fail_together(rank, folder):
    with joined_world() as world, world.together(TrainingError("the processes cannot go on")):
        if world.rank == 1:
            raise TrainingError("no room here")
    return "went on"


def break_alone(rank, folder):
    with joined_world() as world:
        if world.rank == 1:
            raise KeyError("a mistake in the code")
        return str(world.total(torch.ones(1)))


def be_killed(rank, folder):
    with joined_world() as world:
        world.wait()
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return str(world.total(torch.ones(1)))


@pytest.mark.parametrize(
    ("function", "first"),
    [
        (fail_alone, "process 1 has ended: the images of this process are gone; start all of them again"),
        (fail_together, "the processes cannot go on: process 1 says no room here"),
        (break_alone, "process 1 has ended: KeyError: 'a mistake in the code'; start all of them again"),
        (be_killed, "another process has ended without a word"),
    ],
)
def test_a_process_that_ends_ends_the_others_soon_and_the_first_one_says_why(tmp_path, function, first):
    _, said, seconds = run(function, tmp_path)
    assert said[0].startswith(f"error: {first}")
    assert seconds < 30


SCRIPT = """
import sys, time
from lwexplain.processes import joined_world
import torch
for call in range(4):
    with joined_world() as world:
        assert world.total(torch.ones(1)).item() == 2
    if world.rank == 1:
        time.sleep(0.1)
"""


def test_a_script_under_torchrun_joins_several_times_and_ends_in_order(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
