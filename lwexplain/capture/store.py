"""The feature cache of a run: one .npy file a stage, filled shard by shard, so that an interrupted capture goes on.

::

    features/key.json               what the features were made of; another key empties the folder
    features/about.json             how they were made: the precision of the forward pass and its error
    features/SPLIT/split.json       the rows, stages and heads: how long the files are
    features/SPLIT/STAGE.npy        (N, D) float32, preallocated
    features/SPLIT/logits.STAGE.npy (N, K) float32 for a stage with a head
    features/SPLIT/labels.npy       (N,) int64
    features/SPLIT/index.npy        (N,) int64, positions in the data set
    features/SPLIT/shards/00003     empty: rows 3 * SHARD_ROWS up to 4 * SHARD_ROWS are on disk in all files

Shards are independent of each other, so several processes can fill one split.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lwexplain.capture.extract import Captured
from lwexplain.errors import RunError
from lwexplain.run import atomic_path

SHARD_ROWS = 4096
HEADER = 128  # bytes before the rows of a .npy file; the format lets its header be padded


class FeatureStore:
    """Features of all splits under ``folder``, made for ``key`` (weights, data, sub-sample, pooling, precision)."""

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder = folder
        self.key = key

    def is_current(self) -> bool:
        """Whether what lies there was made for the key."""
        return _read_json(self.folder / "key.json") == self.key

    def prepare(self) -> None:
        """Delete what was made for another key."""
        if not self.is_current():
            shutil.rmtree(self.folder, ignore_errors=True)
            with atomic_path(self.folder / "key.json") as temporary:
                temporary.write_text(json.dumps(self.key))

    def note(self, about: dict[str, Any]) -> None:
        """Keep a remark on how the features were made."""
        with atomic_path(self.folder / "about.json") as temporary:
            temporary.write_text(json.dumps(about))

    def about(self) -> dict[str, Any] | None:
        """The remark; None where there is none."""
        content = _read_json(self.folder / "about.json")
        return content if isinstance(content, dict) else None

    def split(self, name: str, rows: int) -> "StoredSplit":
        """The part of the store for one split of ``rows`` samples."""
        return StoredSplit(self.folder / name, rows)


class StoredSplit:
    """The files of one split of ``n`` samples: which shards are there, adding one, reading them all."""

    def __init__(self, folder: Path, n: int) -> None:
        self.folder, self.n = folder, n

    @property
    def shards(self) -> list[slice]:
        """The rows of each shard."""
        return [slice(start, min(start + SHARD_ROWS, self.n)) for start in range(0, self.n, SHARD_ROWS)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not on disk; all of them where the files have another form."""
        content = _read_json(self.folder / "split.json")
        if content is None or content.get("rows") != self.n or not self._has_whole_files(content):
            return list(range(len(self.shards)))
        return [number for number in range(len(self.shards)) if not self._marker(number).exists()]

    def begin(self) -> None:
        """Clear away files of another form before shards are added to a split that misses all of them."""
        if len(self.missing()) == len(self.shards):
            shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, number: int, shard: Captured) -> None:
        """Put the rows of a shard in their place; raises RunError where the disk is full."""
        start = self.shards[number].start
        assert shard.index is not None
        arrays = {f"{quote(name, safe='')}.npy": rows for name, rows in shard.features.items()}
        arrays |= {f"logits.{quote(name, safe='')}.npy": rows for name, rows in shard.logits.items()}
        arrays |= {"labels.npy": shard.labels, "index.npy": shard.index}
        try:
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            for name, rows in arrays.items():
                _write_rows(self.folder / name, rows, start, self.n)
            if not (self.folder / "split.json").exists():
                content = {"rows": self.n, "stages": shard.stages, "heads": list(shard.logits), "files": list(arrays)}
                with atomic_path(self.folder / "split.json") as temporary:
                    temporary.write_text(json.dumps(content))
            self._marker(number).touch()
        except OSError as error:
            raise RunError(
                f"cannot write features to {self.folder}: {error.strerror or error}; free space and run the analysis "
                "again, it goes on from here"
            ) from None

    def read(self) -> Captured | None:
        """The whole split, features and logits memory-mapped; None where a shard is missing or a file is damaged."""
        content = _read_json(self.folder / "split.json")
        if content is None or self.missing():
            return None
        try:
            return Captured(
                features={name: _mapped(self.folder / f"{quote(name, safe='')}.npy") for name in content["stages"]},
                labels=np.array(_mapped(self.folder / "labels.npy")),
                logits={name: _mapped(self.folder / f"logits.{quote(name, safe='')}.npy") for name in content["heads"]},
                index=np.array(_mapped(self.folder / "index.npy")),
            )
        except (OSError, ValueError, KeyError):
            return None

    def _marker(self, number: int) -> Path:
        return self.folder / "shards" / f"{number:05d}"

    def _has_whole_files(self, content: dict[str, Any]) -> bool:
        try:
            return all(len(_mapped(self.folder / name)) == self.n for name in content["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _write_rows(path: Path, rows: np.ndarray, start: int, n: int) -> None:
    """Write ``rows`` from row ``start`` on into a .npy file of ``n`` rows, made where it is not there, and sync it."""
    rows = np.ascontiguousarray(rows)
    shape = (n, *rows.shape[1:])
    about = f"{{'descr': '{rows.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}".encode("ascii")
    header = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + about.ljust(HEADER - 11) + b"\n"
    row_bytes = rows.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(file).st_size != HEADER + n * row_bytes:
            os.ftruncate(file, HEADER + n * row_bytes)
            os.pwrite(file, header, 0)
        _write_all(file, rows.data.cast("B"), HEADER + start * row_bytes)
        os.fsync(file)
    finally:
        os.close(file)


def _write_all(file: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
