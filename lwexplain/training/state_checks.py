"""What a checkpoint must hold before training goes on from it: a position, and tensors that fit the training.

Every check raises ValueError, which names the thing, the value found and what was expected.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lwexplain.arguments import shown
from lwexplain.run.fields import is_count, is_number, is_text

OPTIMIZER_STATE = ("momentum_buffer", "exp_avg", "exp_avg_sq", "step")


def check_contents(contents: Any) -> None:
    """What a checkpoint says beside its position: how many processes wrote it, and whether it has an optimizer."""
    processes = contents.get("processes")
    if type(contents.get("optimizer")) is not bool or not is_count(processes) or processes < 1:
        raise ValueError("it does not say its number of processes and whether it holds an optimizer")


def check_position(position: Any, names: Collection[str]) -> None:
    """Exactly the fields ``names`` of a position, each of its type."""
    if not isinstance(position, dict) or set(position) != set(names):
        raise ValueError(f"position is {shown(position)}, expected the fields {', '.join(sorted(names))}")
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


def check_hits(hits: Mapping[str, Tensor], known: Mapping[str, int], n: int) -> dict[int, Tensor]:
    """Which val samples each depth got right: bool (n,) by depth; ``known`` depths by name."""
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


def check_meter(tensors: Mapping[str, Tensor], rows: int) -> None:
    """Sums of losses and hits of every head, ``rows`` in all, and a number of images."""
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
