"""The feature cache of a run: an .npy file for each stage, filled shard by shard; an interrupted capture goes on.

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

import os
from typing import Any
from urllib.parse import quote

import numpy as np

from lwexplain.capture.extract import Captured
from lwexplain.errors import RunError
from lwexplain.run.binary_files import map_array
from lwexplain.run.files import RunFiles
from lwexplain.version import VERSION

SHARD_ROWS = 4096

HEADER = 128
"""Bytes before the rows of a .npy file; the format lets its header be padded."""


class FeatureStore:
    """Features of all splits under ``files``, made for ``key`` (weights, data, sub-sample, pooling, precision) by this
    version of lwexplain."""

    def __init__(self, files: RunFiles, key: dict[str, Any]) -> None:
        self.files = files
        self.key = {**key, "lwexplain": VERSION}

    def is_current(self) -> bool:
        """Whether what lies there was made for the key."""
        return _read_mapping(self.files, "key.json") == self.key

    def prepare(self) -> None:
        """Delete what was made for another key."""
        if not self.is_current():
            self.files.remove()
            self.files.write_json("key.json", self.key)

    def note(self, about: dict[str, Any]) -> None:
        """Keep a remark on how the features were made."""
        self.files.write_json("about.json", about)

    def about(self) -> dict[str, Any] | None:
        """The remark; None where there is none."""
        return _read_mapping(self.files, "about.json")

    def split(self, name: str, rows: int) -> "StoredSplit":
        """The part of the store for one split of ``rows`` samples."""
        return StoredSplit(self.files.within(name), rows)


class StoredSplit:
    """The files of one split of ``n`` samples: which shards are there, adding one, reading them all."""

    def __init__(self, files: RunFiles, n: int) -> None:
        self.files, self.n = files, n

    @property
    def shards(self) -> list[slice]:
        """The rows of each shard."""
        return [slice(start, min(start + SHARD_ROWS, self.n)) for start in range(0, self.n, SHARD_ROWS)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not on disk; all of them where the files have another form."""
        content = self._content()
        if content is None or content["rows"] != self.n or not self._has_whole_files(content):
            return list(range(len(self.shards)))
        there = set(self.files.file_names("shards"))
        return [number for number in range(len(self.shards)) if _marker(number) not in there]

    def begin(self) -> None:
        """Clear away files of another form before shards are added to a split that misses all of them."""
        if len(self.missing()) == len(self.shards):
            self.files.remove()

    def add(self, number: int, shard: Captured) -> None:
        """Put the rows of a shard in their place; raises RunError where the disk is full."""
        start = self.shards[number].start
        assert shard.index is not None
        arrays = {_file_of(name): rows for name, rows in shard.features.items()}
        arrays |= {_file_of(name, "logits."): rows for name, rows in shard.logits.items()}
        arrays |= {"labels.npy": shard.labels, "index.npy": shard.index}
        try:
            for name, rows in arrays.items():
                _write_rows(self.files.open_in_place(name), rows, start, self.n)
            if not self.files.has("split.json"):
                self.files.write_json(
                    "split.json", {"rows": self.n, "stages": shard.stages, "heads": list(shard.logits)}
                )
            self.files.append(f"shards/{_marker(number)}", b"")
        except OSError as error:
            raise RunError(
                f"cannot write features to {self.files.path()}: {error.strerror or error}; free space and run the "
                "analysis again, it goes on from here"
            ) from None

    def read(self) -> Captured | None:
        """The whole split, features and logits memory-mapped; None where a shard is missing or a file is damaged."""
        content = self._content()
        if content is None or self.missing():
            return None
        try:
            return Captured(
                features={name: map_array(self.files, _file_of(name)) for name in content["stages"]},
                labels=np.array(map_array(self.files, "labels.npy")),
                logits={name: map_array(self.files, _file_of(name, "logits.")) for name in content["heads"]},
                index=np.array(map_array(self.files, "index.npy")),
            )
        except RunError:
            return None

    def _content(self) -> dict[str, Any] | None:
        """What ``split.json`` says; None where it is missing or does not say it."""
        content = _read_mapping(self.files, "split.json") or {}
        names = [content.get(key) for key in ("stages", "heads")]
        listed = all(isinstance(value, list) and all(isinstance(name, str) for name in value) for value in names)
        return content if listed and type(content.get("rows")) is int else None

    def _has_whole_files(self, content: dict[str, Any]) -> bool:
        names = [_file_of(name) for name in content["stages"]] + [
            _file_of(name, "logits.") for name in content["heads"]
        ]
        try:
            arrays = [map_array(self.files, name) for name in names]
            positions = [map_array(self.files, name) for name in ("labels.npy", "index.npy")]
        except RunError:
            return False
        return all(array.shape[:1] == (self.n,) and array.dtype == np.float32 for array in arrays) and all(
            array.shape == (self.n,) and array.dtype == np.int64 for array in positions
        )


def _file_of(name: str, prefix: str = "") -> str:
    """The file of a stage; a stage may have any name."""
    return f"{prefix}{quote(name, safe='')}.npy"


def _marker(number: int) -> str:
    """The empty file that says that a shard is whole."""
    return f"{number:05d}"


def _write_rows(file: int, rows: np.ndarray, start: int, n: int) -> None:
    """Write ``rows`` from row ``start`` on into a .npy file of ``n`` rows, sync it and close it."""
    rows = np.ascontiguousarray(rows)
    shape = (n, *rows.shape[1:])
    about = f"{{'descr': '{rows.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}".encode("ascii")
    header = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + about.ljust(HEADER - 11) + b"\n"
    row_bytes = rows.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
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


def _read_mapping(files: RunFiles, name: str) -> dict[str, Any] | None:
    try:
        content = files.read_json(name)
    except RunError:
        return None
    return content if isinstance(content, dict) else None
