"""The state of a training in its run directory: written whole, and gone back to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lwexplain.errors import CheckpointError
from lwexplain.processes import World
from lwexplain.run import Run
from lwexplain.training.checkpoint import (
    BEST,
    LAST,
    check_weights,
    load_checkpoint,
    load_optimizer,
    load_weights,
    save_checkpoint,
    under_prefix,
)
from lwexplain.training.state import TrainingState
from lwexplain.training.state_checks import check_contents, check_finite, check_meter, check_optimizer


@dataclass(frozen=True)
class Plan:
    """How long training goes on: ``phases`` of ``epochs`` of ``steps`` each, with ``val_samples`` to look at;
    ``keeps_best`` where each phase ends with the weights of its best epoch."""

    phases: int
    epochs: int
    steps: int
    val_samples: int
    keeps_best: bool


def save_snapshot(state: TrainingState, run: Run, world: World) -> None:
    """Write ``last.safetensors``, and ``best.safetensors`` where there are better weights; every process must call
    it."""
    tensors = state.state_dict()
    with world.first_alone():
        if world.is_main:
            _write(state, tensors, run, world)


def restore_snapshot(state: TrainingState, run: Run, world: World, plan: Plan, prepare: Callable[[], None]) -> None:
    """Put ``state`` and the log back to the last checkpoint; ``prepare`` makes the optimizer and the meter of the phase
    that ``state.position`` is in.

    Raises CheckpointError where the checkpoint is missing, damaged, or not one of this training.
    """
    if world.is_main:
        run.files.remove_leftovers("checkpoints")
    path = run.checkpoints / LAST
    tensors, contents = load_checkpoint(path)
    try:
        check_contents(contents)
        if contents["processes"] != world.size:
            raise CheckpointError(
                f"{run.path} was trained by {contents['processes']} processes and now there are {world.size}; "
                f"resume with torchrun --nproc_per_node={contents['processes']}"
            )
        _restore(state, tensors, contents, run, world, plan, prepare)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} cannot be gone on from: {reason}; restore it from a copy, or train the run anew"
        ) from None


def _write(state: TrainingState, tensors: dict[str, Tensor], run: Run, world: World) -> None:
    state.position.events_bytes = run.files.synced_size("events.jsonl")  # a checkpoint never knows more than the disk
    contents = {
        "position": state.position.state_dict(),
        "optimizer": state.optimizer is not None,
        "processes": world.size,
    }
    if state.best and not state.best.saved:
        save_checkpoint(run.checkpoints / BEST, state.best.state_dict(), state.best.epoch)
        state.best.saved = True
    save_checkpoint(run.checkpoints / LAST, tensors, contents)
    run.write_json("checkpoints/last.json", contents | {"file": LAST})


def _restore(
    state: TrainingState,
    tensors: dict[str, Tensor],
    contents: dict[str, Any],
    run: Run,
    world: World,
    plan: Plan,
    prepare: Callable[[], None],
) -> None:
    """Part after part, each checked before it is put back."""
    path, position = run.checkpoints / LAST, state.position
    position.load_state_dict(contents.get("position"))
    _check_place(state, plan, has_optimizer=contents["optimizer"])
    check_finite(under_prefix("model", tensors))
    load_weights(state.model, under_prefix("model", tensors), path)
    for depth, loss in state.losses.items():
        load_weights(loss, under_prefix(f"loss.{depth}", tensors), path)
    state.val_correct.load_state_dict(under_prefix("val_correct", tensors), state.losses, plan.val_samples)
    if plan.keeps_best and position.best_accuracy is not None:
        best = run.checkpoints / BEST
        check_weights(state.model, under_prefix("model", load_checkpoint(best)[0]), best)
    if world.is_main:  # what was logged after the checkpoint is done again
        run.files.cut("events.jsonl", position.events_bytes)
    if contents["optimizer"]:
        prepare()
        assert state.optimizer is not None
        of_optimizer, of_meter = under_prefix("optimizer", tensors), under_prefix("meter", tensors)
        check_optimizer(state.optimizer, of_optimizer, begun=position.has_begun)
        load_optimizer(state.optimizer, of_optimizer)
        check_meter(of_meter, rows=state.meter.rows)
        state.meter.load_state_dict(of_meter)
    state.random.load_state_dict(under_prefix("rng", tensors))


def _check_place(state: TrainingState, plan: Plan, *, has_optimizer: bool) -> None:
    """The position lies in the plan, and an optimizer is there where a phase has begun."""
    position = state.position
    if position.phase > plan.phases:
        raise ValueError(f"position.phase is {position.phase}, and the training has {plan.phases} phases")
    if position.epoch >= plan.epochs or position.step > plan.steps:
        raise ValueError(
            f"position is epoch {position.epoch}, step {position.step}; a phase has {plan.epochs} epochs of "
            f"{plan.steps} steps"
        )
    if (position.has_begun or has_optimizer) and (position.phase == plan.phases or not has_optimizer):
        raise ValueError("position and optimizer contradict each other")
    if position.stopped is not None and position.phase == 0:
        raise ValueError("training cannot have stopped before its first phase ended")
    if position.best_accuracy is not None and position.phase == plan.phases:
        raise ValueError("position names a best accuracy of a phase that is not there")
