"""What lies in a file of weights, read without running anything that stands in it.

Files are told apart by their first bytes, not by their names: safetensors, the zip archives and old pickles of
``torch.save``, and the index of a network that is stored in several files.
"""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lwexplain.arguments import path_of, shortened, shown
from lwexplain.errors import CheckpointError, mend
from lwexplain.run.binary_files import MOST_HEADER, check_tensors
from lwexplain.run.parsing import parse_json

SAVE_AGAIN = "torch.save(model.state_dict(), FILE), or safetensors.torch.save_model(model, FILE)"

ZIP, PICKLE, JSON = b"PK", b"\x80", b"{"


def read_weight_file(path: str | Path) -> Any:
    """What ``torch.save`` stored, as plain containers with tensors, or a mapping of names to tensors, on the CPU.

    Raises CheckpointError where the file is missing, damaged, of another kind, or would need code to be run.
    """
    file = path_of("the file of weights", path, CheckpointError)
    if file.is_dir():
        inside = sorted(
            child.name for child in file.iterdir() if child.suffix in (".safetensors", ".pt", ".pth", ".bin")
        )
        found = f", such as {inside[0]}" if inside else ""
        raise CheckpointError(f"the weights {file} are a folder; name the file in it{found}")
    try:
        if not file.is_file():
            raise CheckpointError(f"there is no file of weights {file}; check the path")
        with file.open("rb") as opened:
            start = opened.read(9)
    except OSError as error:
        raise CheckpointError(f"the weights {file} cannot be read: {error.strerror}; {mend(error)}") from None
    if start[8:] == JSON and int.from_bytes(start[:8], "little") <= MOST_HEADER:  # whose first byte may be any other's
        return _read_safetensors(file)
    if start.startswith((ZIP, PICKLE)):
        return _read_torch(file)
    if start.startswith(JSON):
        return _read_shards(file)
    raise CheckpointError(
        f"{file} holds no weights that can be read; expected safetensors or what torch.save wrote: {SAVE_AGAIN}"
    )


def _read_torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not named and "truncated" in str(error):
            raise _damaged(file, error) from None
        what = f" ({shortened(named[1])})" if named else ""
        raise CheckpointError(
            f"{file} holds more than tensors{what}, and nothing in it is run to find out; where it was made, save the "
            f"weights alone: {SAVE_AGAIN}"
        ) from None
    except Exception as error:  # a damaged archive may raise anything
        if "TorchScript" in str(error):
            raise CheckpointError(f"{file} is a TorchScript archive; save the weights alone: {SAVE_AGAIN}") from None
        raise _damaged(file, error) from None


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with file.open("rb") as opened:
            check_tensors(opened)
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> CheckpointError:
    reason = shortened(str(error), 80) or type(error).__name__
    return CheckpointError(
        f"{file} is cut short, damaged or of another kind ({reason}); copy it anew from where it was made, or save the "
        f"weights there: {SAVE_AGAIN}"
    )


def _read_shards(file: Path) -> dict[str, Tensor]:
    """The tensors of a network in several files, which the index names for each; all must lie beside the index."""
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no index of weights ({shortened(str(error), 80)})") from None
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not shard_of or not all(isinstance(name, str) for name in shard_of.values()):
        raise CheckpointError(
            f"{file} is no index of weights: it has no weight_map from names to files; pass a file of weights"
        )
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(shard_of.values())):
        if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
            raise CheckpointError(
                f"{file} names the file {shown(shard)}; all files of a network must lie in the folder of the index"
            )
        if not (file.parent / shard).is_file():
            raise CheckpointError(f"{file} names the file {shown(shard)}, which is not beside it; copy all files of it")
        if shard.endswith(".json"):
            raise CheckpointError(f"{file} names the index {shown(shard)} in place of a file of weights")
        held = read_weight_file(file.parent / shard)
        wanted = [name for name, place in shard_of.items() if place == shard]
        missing = [name for name in wanted if not isinstance(held, dict) or not isinstance(held.get(name), Tensor)]
        if missing:
            raise CheckpointError(
                f"{file.parent / shard} lacks {len(missing)} tensors that {file.name} names, such as "
                f"{shown(missing[0])}; copy all files of the network anew"
            )
        tensors |= {name: held[name] for name in wanted}
    return tensors
