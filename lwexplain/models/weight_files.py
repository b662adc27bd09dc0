"""The weights of somebody's network from a file: all of them or none, and nothing in the file is run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwexplain.arguments import shortened
from lwexplain.errors import CheckpointError
from lwexplain.models.foreign import check_model
from lwexplain.models.modules import unwrap
from lwexplain.models.stored_weights import SAVE_AGAIN, read_weight_file
from lwexplain.models.weight_names import Match, best_matches, names_in, without_compiled

NAMED = 3
"""How many names of a kind an error lists."""

COUNTERS = ("num_batches_tracked", "_extra_state")
"""Ends of names that a file may lack: what they hold says nothing of what a network computes when it is evaluated."""


@dataclass(frozen=True)
class WeightReport:
    """What was read from ``file``: ``count`` tensors, from which ``level`` and behind which ``prefix`` of names.

    ``aside`` are names in the file that are not of the network, such as those of a loss beside it; ``cast`` the dtypes
    of the file that were turned into those of the model.
    """

    file: Path
    count: int
    level: str = ""
    prefix: str = ""
    aside: tuple[str, ...] = ()
    cast: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.count} tensors from {self.file}"]
        parts += [f"from its level {self.level!r}"] if self.level else []
        parts += [f"their names without {self.prefix!r}"] if self.prefix else []
        parts += [f"cast from {', '.join(self.cast)}"] if self.cast else []
        parts += [f"left aside {_listed(self.aside)}"] if self.aside else []
        return "; ".join(parts)


def load_weights(model: nn.Module, path: str | Path) -> WeightReport:
    """Put the weights of a file into ``model``, cast to the dtypes of its own.

    The file is safetensors, an index of several such files, or a state dict that ``torch.save`` wrote, alone or beside
    epoch and optimizer (``state_dict``, ``model``, ...); its names may stand behind ``module.``, ``model.`` or any
    other prefix. Averaged weights are taken where there are no others. Raises CheckpointError, and leaves the model as
    it was, where the file cannot be read or its names and shapes are not those of the model.
    """
    network = unwrap(check_model(model))
    expected = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    stored = {without_compiled(name): name for name in expected}
    content = read_weight_file(path)
    match = _only_match(content, stored.keys(), path, type(network).__name__)
    tensors = {stored[name]: tensor for name, tensor in match.tensors.items() if name in stored}
    left = sorted(name for name in match.tensors if name not in stored and not name.endswith(COUNTERS))
    tensors |= _under_other_names(expected, tensors)
    missing = sorted(name for name in expected if name not in tensors and not name.endswith(COUNTERS))
    _check_names(missing, left, path, type(network).__name__)
    _check_tensors(tensors, expected, path)
    network.load_state_dict({name: tensors[name].to(expected[name].dtype) for name in tensors}, strict=False)
    cast = {
        str(tensor.dtype).removeprefix("torch.")
        for name, tensor in tensors.items()
        if tensor.dtype != expected[name].dtype
    }
    return WeightReport(Path(path), len(tensors), ".".join(match.level), match.prefix, match.aside, tuple(sorted(cast)))


def _only_match(content: Any, names: Iterable[str], path: str | Path, kind: str) -> Match:
    """The one part of a file whose names are those of the network."""
    wanted = set(names)
    matches = best_matches(content, wanted)
    if len(matches) > 1:
        places = " and ".join(repr(".".join([*match.level, match.prefix])) for match in matches[:2])
        raise CheckpointError(
            f"{path} holds weights that fit under {places}; save those that are meant alone: {SAVE_AGAIN}"
        )
    if not matches:
        found = sorted(names_in(content))
        described = f"it names {_listed(found)}" if found else "it holds no named tensors"
        raise CheckpointError(
            f"{path} holds no weights of {kind}: {described}, the network {_listed(sorted(wanted))}; build the network "
            "that the file was saved from"
        )
    return matches[0]


def _under_other_names(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that the network shares under several names, of which the file holds one."""
    given = {_place(expected[name]): tensor for name, tensor in tensors.items()}
    absent = [name for name in expected if name not in tensors]
    return {name: given[place] for name in absent if (place := _place(expected[name])) in given and place[1]}


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies: the same for two names of one."""
    return tensor.data_ptr(), tensor.numel(), tuple(tensor.shape), tensor.stride(), tensor.device


def _check_names(missing: list[str], left: list[str], path: str | Path, kind: str) -> None:
    reasons = [f"it lacks {_listed(missing)}"] if missing else []
    reasons += [f"{_listed(left)} of it {'is' if len(left) == 1 else 'are'} not in the network"] if left else []
    if reasons:
        raise CheckpointError(
            f"{path} does not fit {kind}: {'; '.join(reasons)}; build the network with the arguments it was saved with"
        )


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise CheckpointError where shapes or kinds differ, or two names of one tensor have two values."""
    first_of: dict[tuple[Any, ...], str] = {}
    differing = [name for name, tensor in tensors.items() if tensor.shape != expected[name].shape]
    if differing:
        name = differing[0]
        more = f" ({len(differing)} such)" if len(differing) > 1 else ""
        raise CheckpointError(
            f"{path} does not fit: {shortened(name)} is {tuple(tensors[name].shape)} in the file and "
            f"{tuple(expected[name].shape)} in the network{more}; build the network with the arguments it was saved "
            "with, such as its number of classes"
        )
    for name, tensor in tensors.items():
        own = expected[name]
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or tensor.is_meta
            or tensor.is_complex() != own.is_complex()
        ):
            raise CheckpointError(
                f"{path}: {shortened(name)} is a {tensor.layout} tensor of {tensor.dtype}; expected {own.dtype}"
            )
        if tensor.is_floating_point() != own.is_floating_point():
            raise CheckpointError(
                f"{path}: {shortened(name)} is {tensor.dtype} in the file and {own.dtype} in the network"
            )
        first = first_of.setdefault(_place(own), name) if own.numel() else name
        if first != name and not torch.equal(tensors[first], tensor):
            raise CheckpointError(
                f"{path}: {shortened(first)} and {shortened(name)} differ, and are one tensor in the network; save the "
                "weights of the network as it is built here"
            )


def _listed(names: Iterable[str]) -> str:
    """A few of the names, and how many there are in all."""
    listed = list(names)
    some = ", ".join(shortened(name, 80) for name in listed[:NAMED])
    return f"{some}, ... ({len(listed)} names)" if len(listed) > NAMED else some
