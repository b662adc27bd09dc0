"""What an exact resume needs: how far training has come, weights, optimizer, random state and log, in one file."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lwexplain.errors import CheckpointError
from lwexplain.training.checkpoint import (
    BEST,
    LAST,
    check_weights,
    load_checkpoint,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from lwexplain.training.snapshot_checks import (
    check_finite,
    check_hits,
    check_meter,
    check_optimizer,
    check_place,
    check_random_state,
    check_state,
)

if TYPE_CHECKING:
    from lwexplain.training.loop import Trainer


@dataclass
class Position:
    """How far training has come: the next step to do.

    ``seconds`` of training so far, ``epoch_seconds`` of them in the present epoch, ``events_bytes`` of the log,
    ``stopped`` the reason for an early end, ``live_prefix`` whether the outputs of frozen stages found no place to be
    kept in, ``best_accuracy`` the best on val of the present phase.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    events_bytes: int = 0
    stopped: str | None = None
    live_prefix: bool = False
    best_accuracy: float | None = None


@dataclass
class BestWeights:
    """The model's ``weights`` in the best epoch of the present phase, on the CPU, and the ``epoch`` they are of.
    ``saved`` once they lie in the run directory."""

    weights: dict[str, Tensor]
    epoch: dict[str, Any]
    saved: bool = False


def save_snapshot(trainer: "Trainer") -> None:
    """Write ``last.safetensors``, and ``best.safetensors`` where there are better weights; every process must call it.

    Raises TrainingError where a weight is not finite.
    """
    position, world = trainer.position, trainer.world
    weights = trainer.model.state_dict()
    phase = trainer.phases[min(position.phase, len(trainer.phases) - 1)]
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise trainer.log.failure(f"weight {name} is not finite", phase.name, position)
    meter = trainer.meter.tensors()
    random_states = world.gather(torch.get_rng_state())
    on_device = world.gather(torch.cuda.get_rng_state(trainer.device)) if trainer.device.type == "cuda" else []
    tensors = with_prefix("model", weights) | with_prefix("meter", meter)
    tensors |= with_prefix("rng.cpu", {str(rank): state for rank, state in enumerate(random_states)})
    tensors |= with_prefix("rng.cuda", {str(rank): state for rank, state in enumerate(on_device)})
    with world.first_alone():
        if world.is_main:
            _write(trainer, phase.name, tensors)


def _write(trainer: "Trainer", phase: str, tensors: dict[str, Tensor]) -> None:
    """Write the checkpoints: ``tensors`` and what else the first process knows."""
    position = trainer.position
    position.events_bytes = trainer.run.files.synced_size("events.jsonl")  # a checkpoint never knows more than the disk
    for depth, loss in trainer.losses.items():
        tensors |= with_prefix(f"loss.{depth}", loss.state_dict())
    tensors |= with_prefix("val_correct", {str(depth): hits for depth, hits in trainer.val_correct.items()})
    if trainer.optimizer is not None:
        tensors |= with_prefix("optimizer", optimizer_tensors(trainer.optimizer))
    state = {"position": asdict(position), "optimizer": trainer.optimizer is not None, "processes": trainer.world.size}
    if trainer.best and not trainer.best.saved:
        save_checkpoint(trainer.run.checkpoints / BEST, with_prefix("model", trainer.best.weights), trainer.best.epoch)
        trainer.best.saved = True
    save_checkpoint(trainer.run.checkpoints / LAST, tensors, state)
    trainer.run.write_json("checkpoints/last.json", state | {"file": LAST})
    if position.phase < len(trainer.phases):
        progress = f"{phase}, epoch {position.epoch + 1} of {trainer.recipe.epochs}"
        trainer.run.update(progress=f"phase {position.phase + 1} of {len(trainer.phases)}: {progress}")


def restore_snapshot(trainer: "Trainer") -> None:
    """Go back to the last checkpoint: weights, optimizer, random state, log and position."""
    path = trainer.run.checkpoints / LAST
    if trainer.world.is_main:
        trainer.run.files.remove_leftovers("checkpoints")
    tensors, state = load_checkpoint(path)
    try:
        check_state(state, Position)
        if state["processes"] != trainer.world.size:
            raise CheckpointError(
                f"{trainer.run.path} was trained by {state['processes']} processes and now there are "
                f"{trainer.world.size}; resume with torchrun --nproc_per_node={state['processes']}"
            )
        position = Position(**state["position"])
        check_place(trainer, position, state["optimizer"])
        _restore(trainer, position, tensors, state["optimizer"])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise CheckpointError(
            f"checkpoint {path} cannot be gone on from: {reason}; restore it from a copy, or train the run anew"
        ) from None


def _restore(trainer: "Trainer", position: Position, tensors: dict[str, Tensor], has_optimizer: bool) -> None:
    """Put everything in its place."""
    path = trainer.run.checkpoints / LAST
    check_finite(under_prefix("model", tensors))
    trainer.position = position
    load_weights(trainer.model, under_prefix("model", tensors), path)
    for depth, loss in trainer.losses.items():
        load_weights(loss, under_prefix(f"loss.{depth}", tensors), path)
    trainer.val_correct = check_hits(trainer, under_prefix("val_correct", tensors))
    if trainer.recipe.keep == "best" and position.best_accuracy is not None:
        best = trainer.run.checkpoints / BEST
        check_weights(trainer.model, under_prefix("model", load_checkpoint(best)[0]), best)
    if trainer.world.is_main:  # what was logged after the checkpoint is done again
        trainer.run.files.cut("events.jsonl", position.events_bytes)
    if has_optimizer:
        trainer.prepare(trainer.phases[position.phase])
        assert trainer.optimizer is not None
        state = under_prefix("optimizer", tensors)
        check_optimizer(trainer.optimizer, state, begun=position.epoch > 0 or position.step > 0)
        load_optimizer(trainer.optimizer, state)
        meter = under_prefix("meter", tensors)
        check_meter(trainer, meter)
        trainer.meter.restore(meter)
    _restore_random_states(trainer, tensors)


def _restore_random_states(trainer: "Trainer", tensors: dict[str, Tensor]) -> None:
    name = f"rng.cpu.{trainer.world.rank}"
    torch.set_rng_state(check_random_state(tensors.get(name), torch.get_rng_state(), name))
    name = f"rng.cuda.{trainer.world.rank}"
    if trainer.device.type == "cuda" and name in tensors:
        present = torch.cuda.get_rng_state(trainer.device)
        torch.cuda.set_rng_state(check_random_state(tensors[name], present, name), trainer.device)
