"""Checkpoints: weights, optimizer, random state and position in one safetensors file, whole or not there at all.

The file carries its own position (as safetensors metadata) and a digest of its tensors, so that weights and
position can never disagree; ``last.json`` beside it repeats the position for people and for the app.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lwexplain.arguments import shown
from lwexplain.errors import CheckpointError, RunError
from lwexplain.program import own_option
from lwexplain.run import Run
from lwexplain.run.binary_files import check_tensors
from lwexplain.run.files import MissingFileError, RunFiles
from lwexplain.run.parsing import parse_json

LAST = "last.safetensors"
"""Everything that an exact resume needs; after training, the network."""

BEST = "best.safetensors"
"""The weights of the epoch with the highest val accuracy of the deepest head in the latest phase."""


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and JSON-able ``state`` to RUN/checkpoints/NAME; on any error what was there before stays whole."""
    files, name = _in_its_run(path)
    once, shared = _each_once(tensors)
    whole = once | {name: once[first] for name, first in shared.items()}
    metadata = {"state": json.dumps(state, allow_nan=False), "sha256": _digest(whole)}
    if shared:
        metadata["shared"] = json.dumps(shared)
    with files.replacing(name) as temporary:
        try:
            save_file(once, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from None


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read RUN/checkpoints/NAME back; raises CheckpointError where it is missing, cut short or altered."""
    files, name = _in_its_run(path)
    try:
        file = files.open(name)
    except MissingFileError:
        raise CheckpointError(f"no checkpoint {path}; train anew with another {own_option('run_dir')}") from None
    except RunError as error:
        raise CheckpointError(str(error)) from None
    with file:
        try:
            metadata = check_tensors(file)
            state = parse_json(metadata["state"])
            with safe_open(f"/dev/fd/{file.fileno()}", framework="pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            for name, first in _shared_names(metadata, tensors).items():
                tensors[name] = tensors[first]
        except (SafetensorError, OSError, KeyError, ValueError, MemoryError) as error:
            reason = str(error) if isinstance(error, ValueError) else "it is no whole checkpoint"
            raise CheckpointError(
                f"checkpoint {path} is cut short or damaged ({reason[:120]}); restore it from a copy, or train the run "
                "anew"
            ) from None
    if not isinstance(state, dict) or metadata.get("sha256") != _digest(tensors):
        raise CheckpointError(f"checkpoint {path} does not match its own digest; restore it or train the run anew")
    return tensors, state


def _each_once(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors on the CPU, those that several layers share under the first of their names only; and the other names,
    each with that first one."""
    first_of: dict[tuple[Any, ...], str] = {}
    once: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    storages: set[tuple[Any, ...]] = set()
    for name, tensor in tensors.items():
        storage = tensor.device, tensor.untyped_storage().data_ptr()
        place = *storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        if tensor.numel() and place in first_of:
            shared[name] = first_of[place]
            continue
        first_of[place] = name
        cpu = tensor.detach().to("cpu").contiguous()
        once[name] = cpu.clone() if tensor.numel() and storage in storages else cpu  # another part of the same memory
        storages.add(storage)
    return once, shared


def _shared_names(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of tensors that stand in the file under another name; raises ValueError where they are not sound."""
    shared = parse_json(metadata.get("shared", "{}"))
    if not isinstance(shared, dict) or any(
        name in tensors or not isinstance(first, str) or first not in tensors for name, first in shared.items()
    ):
        raise ValueError("its list of shared tensors does not fit the tensors")
    return {str(name): first for name, first in shared.items()}


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, every name behind ``prefix.``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix.``, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def load_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put weights into the model; raises CheckpointError where names, shapes or types differ."""
    check_weights(model, tensors, path)
    model.load_state_dict(tensors)


def check_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise CheckpointError where names, shapes or types of weights are not those of the model."""
    expected = model.state_dict()
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    reason = f"{len(missing)} weights are missing, such as {missing[0]}" if missing else ""
    if unknown and not reason:
        reason = f"it has {len(unknown)} weights too many, such as {shown(unknown[0])}"
    for name, tensor in tensors.items() if not reason else ():
        if tensor.shape != expected[name].shape or tensor.is_floating_point() != expected[name].is_floating_point():
            found = f"{tensor.dtype} {tuple(tensor.shape)}"
            reason = f"{name} is {found}, expected {expected[name].dtype} {tuple(expected[name].shape)}"
            break
    if reason:
        raise CheckpointError(
            f"checkpoint {path} does not fit the model of config.yaml: {reason}; restore both from a copy of the run"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors (``3.momentum_buffer``)."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The reverse of ``optimizer_tensors``; learning rates stay as configured."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_final_weights(run: Run, model: nn.Module) -> str:
    """Weights of a trained run into ``model``; returns the digest that identifies them."""
    path = run.checkpoints / LAST
    tensors, _ = load_checkpoint(path)
    weights = under_prefix("model", tensors)
    load_weights(model, weights, path)
    return _digest(weights)


def _in_its_run(path: Path) -> tuple[RunFiles, str]:
    """The files of the run that RUN/checkpoints/NAME lies in, and its name among them."""
    return RunFiles(path.parents[1]), f"{path.parent.name}/{path.name}"


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, kinds and values; of a tensor under several names the values count once."""
    digest = hashlib.sha256()
    first_of: dict[int, str] = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        if id(tensor) in first_of:
            digest.update(f"as {first_of[id(tensor)]};".encode())
            continue
        first_of[id(tensor)] = name
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
