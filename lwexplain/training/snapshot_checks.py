"""What a checkpoint must hold before training goes on from it: a place in the plan, and tensors that fit the trainer.

Every check raises ValueError, which names the thing, the value found and what was expected.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lwexplain.arguments import shown
from lwexplain.run.fields import is_count, is_number, is_text

if TYPE_CHECKING:
    from lwexplain.training.loop import Trainer
    from lwexplain.training.snapshot import Position

OPTIMIZER_STATE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")


def check_state(state: Any, kind: type) -> None:
    """The parts of the state and, of the position, exactly the fields of ``kind``, each of its type."""
    position = state.get("position")
    expected = {field.name for field in fields(kind)}
    if not isinstance(position, dict) or set(position) != expected:
        raise ValueError(f"position is {shown(position)}, expected the fields {', '.join(sorted(expected))}")
    if type(state.get("optimizer")) is not bool or not is_count(state.get("processes")) or state["processes"] < 1:
        raise ValueError("it does not say its number of processes and whether it holds an optimizer")
    wholes = ("phase", "epoch", "step", "events_bytes")
    checks = {
        **{name: (is_count(position[name]), "a whole number of at least 0") for name in wholes},
        **{name: (is_number(position[name]), "a number of at least 0") for name in ("seconds", "epoch_seconds")},
        "stopped": (position["stopped"] is None or is_text(position["stopped"]), "text or nothing"),
        "live_prefix": (isinstance(position["live_prefix"], bool), "true or false"),
        "best_accuracy": (_is_share(position["best_accuracy"]), "a number in [0, 1] or nothing"),
    }
    for name, (fits, what) in checks.items():
        if not fits:
            raise ValueError(f"position.{name} is {shown(position[name])}, expected {what}")


def check_place(trainer: "Trainer", position: "Position", has_optimizer: bool) -> None:
    """The position lies in the plan of the trainer, and an optimizer is there where a phase has begun."""
    phases, epochs, steps = len(trainer.phases), trainer.recipe.epochs, len(trainer.train_batches)
    if position.phase > phases:
        raise ValueError(f"position.phase is {position.phase}, and the training has {phases} phases")
    if position.epoch >= epochs or position.step > steps:
        raise ValueError(
            f"position is epoch {position.epoch}, step {position.step}; a phase has {epochs} epochs of {steps} steps"
        )
    begun = position.epoch > 0 or position.step > 0
    if (begun or has_optimizer) and (position.phase == phases or not has_optimizer):
        raise ValueError("position and optimizer contradict each other")
    if position.stopped is not None and position.phase == 0:
        raise ValueError("training cannot have stopped before its first phase ended")
    if position.best_accuracy is not None and position.phase == phases:
        raise ValueError("position names a best accuracy of a phase that is not there")


def check_hits(trainer: "Trainer", hits: dict[str, Tensor]) -> dict[int, Tensor]:
    """Which val samples each depth got right: bool (N,) by depth."""
    n = len(trainer.val_batches.images)
    known = {str(depth): depth for depth in trainer.losses}
    for depth, right in hits.items():
        if depth not in known or right.dtype != torch.bool or right.shape != (n,):
            raise ValueError(f"val_correct.{shown(depth)} is {right.dtype} {tuple(right.shape)}, expected bool ({n},)")
    return {known[depth]: right for depth, right in hits.items()}


def check_finite(weights: dict[str, Tensor]) -> None:
    """All weights are finite."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"weight {shown(name)} is not finite")


def check_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], *, begun: bool) -> None:
    """The optimizer's state has the shapes of its parameters, and is there once steps were made."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = {str(place): parameter for place, parameter in enumerate(parameters)}
    for name, tensor in tensors.items():
        place, _, key = name.partition(".")
        if place not in places or key not in OPTIMIZER_STATE:
            raise ValueError(f"optimizer.{shown(name)} belongs to no parameter")
        shape = () if key == "step" else tuple(places[place].shape)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ValueError(f"optimizer.{name} is {tensor.dtype} {tuple(tensor.shape)}, expected floats {shape}")
        if not bool(torch.isfinite(tensor).all()) or (key == "step" and float(tensor) < 0):
            raise ValueError(f"optimizer.{name} is out of range")
    expects_state = optimizer.defaults.get("momentum") != 0
    if begun and expects_state and not tensors:
        raise ValueError("the state of the optimizer is missing")


def check_meter(trainer: "Trainer", tensors: dict[str, Tensor]) -> None:
    """Sums of losses and hits of every head, and a number of images."""
    rows = 2 * len(trainer.meter.loss)
    sums, count = tensors.get("sums"), tensors.get("count")
    fits = sums is not None and sums.dtype == torch.float64 and sums.shape == (rows,)
    if not fits or count is None or count.dtype != torch.int64 or count.shape != () or int(count) < 0:
        raise ValueError(f"the running sums are not there, expected {rows} of them and a number of images")


def check_random_state(state: Tensor | None, present: Tensor, name: str) -> Tensor:
    """A random state of the form that this machine has."""
    if state is None or state.dtype != present.dtype or state.shape != present.shape:
        found = "missing" if state is None else f"{state.dtype} {tuple(state.shape)}"
        raise ValueError(f"{name} is {found}, expected {present.dtype} {tuple(present.shape)}")
    return state


def _is_share(value: Any) -> bool:
    return value is None or (is_number(value) and value <= 1)
