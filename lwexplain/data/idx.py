"""The IDX files of the MNIST family, plain or gzipped (Y. LeCun, "The MNIST database", file format)."""

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from lwexplain.data.dataset import ImageArrays
from lwexplain.errors import DataError


def find_idx(folder: Path, names: list[str]) -> list[Path] | None:
    """The files ``names`` (or ``NAME.gz``) in ``folder``, in that order; None unless all are there."""
    found = []
    for name in names:
        match = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not match:
            return None
        found.append(match[0])
    return found


def read_idx(path: Path, dimensions: int) -> Tensor:
    """uint8 array of ``dimensions`` axes from one IDX file; raises DataError that names a damaged file."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, str(error)) from None
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, dimensions)):
        raise damaged(path, f"it is not an IDX file of bytes with {dimensions} dimensions")
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4)]
    if len(raw) - header != math.prod(shape):
        raise damaged(path, f"its header says {math.prod(shape)} values, it holds {len(raw) - header}")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header).reshape(shape).clone()


def read_pair(images: Path, labels: Path) -> ImageArrays:
    """Grey images (N, 1, H, W) and labels (N,) from two IDX files; raises DataError."""
    pixels, targets = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(targets):
        raise damaged(labels, f"it has {len(targets)} labels for the {len(pixels)} images of {images.name}")
    return ImageArrays(pixels.unsqueeze(1), targets.long())


def damaged(path: Path, reason: str) -> DataError:
    """The error for a file of a data set that cannot be used."""
    return DataError(f"{path} is damaged: {reason}; remove it, then set data.download=true or copy it again")
