"""Capture the splits of a trained run into its feature store, shard by shard, shared out among processes."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.capture.extract import Captured, Reader, capturing
from lwexplain.capture.pooling import Pooling
from lwexplain.capture.store import StoredSplit
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits
from lwexplain.errors import CaptureError
from lwexplain.models.activations import ActivationMeter
from lwexplain.models.staged import StagedModel, State
from lwexplain.processes import World

BATCH = 256
CHECKED_IMAGES = 64
LONG_PASS = 2e12
"""FLOPs from which a pass in float32 takes long: some ten seconds on two CPU cores."""

TOLERATED_ERROR = 0.03
"""Largest error of half precision, as a share of a feature's spread. Noise of 3 % of the spread adds 0.1 % to the
variance of a feature, while an index of some thousand samples is known to a few percent. What it does to the indices of
a full-width ResNet-18 is measured by tests/benchmarks/analysis_speed.py (``indices_on_own_features``)."""


@dataclass
class Precision:
    """What the forward pass runs in, and why: ``error`` is the largest over stages of the root mean square difference
    of the features to those of float32, over the standard deviation of the features; None where it was not measured."""

    dtype: torch.dtype = torch.float32
    error: float | None = None

    @property
    def note(self) -> str:
        """In words; empty for float32."""
        if self.dtype == torch.float32:
            return ""
        measured = "" if self.error is None else f": features differ by {self.error:.1%} of their spread from float32"
        return f"bfloat16 forward pass{measured}"

    def to_dict(self) -> dict[str, Any]:
        error = self.error if self.error is not None and math.isfinite(self.error) else None
        return {"forward": str(self.dtype).removeprefix("torch."), "error": error}

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> "Precision":
        """The reverse of ``to_dict``; float32 where nothing was noted."""
        if not content or content.get("forward") != "bfloat16":
            return cls(error=(content or {}).get("error"))
        return cls(torch.bfloat16, content.get("error"))


@dataclass
class RunCapture:
    """Captures stages of ``model`` for the samples at ``positions[split]`` of ``data``.

    ``working_bytes`` bounds the activations of a batch; every process of ``world`` calls ``split`` alike.
    ``before_batch`` is called before each.
    """

    model: StagedModel
    names: list[str]
    data: DataSplits
    positions: Mapping[str, Tensor]
    device: torch.device
    seed: int
    working_bytes: int
    world: World = field(default_factory=World)
    pooling: Pooling = "auto"
    precision: Precision = field(default_factory=Precision)
    before_batch: Callable[[], None] = lambda: None

    def split(self, name: str, store: StoredSplit) -> None:
        """Fill the shards that are missing. Raises CaptureError and RunError; in several processes all of them do."""
        missing = store.missing()
        self.world.wait()  # all have looked before one clears
        with self.world.first_alone():
            if self.world.is_main:
                store.begin()
        mine = [number for place, number in enumerate(missing) if place % self.world.size == self.world.rank]
        with self.world.together(CaptureError("another process could not capture its share of the images")):
            if mine:
                self._fill(name, store, mine)

    def choose_precision(self, request: str) -> Precision:
        """What ``request`` comes to: ``float32``, ``bfloat16``, or ``auto``.

        ``auto`` takes bfloat16 where a pass in float32 would take long, the device computes in bfloat16 at full speed,
        and it changes the features too little to matter. The error is measured on images of train, which decide
        nothing.
        """
        if request == "float32":
            return Precision()
        images = sum(len(positions) for positions in self.positions.values())
        worth_it = images * self._flops_of_an_image() > LONG_PASS and _has_fast_bfloat16(self.device)
        if request == "auto" and not worth_it:
            return Precision()
        item = next(iter(self._batches("train", self.positions["train"][:CHECKED_IMAGES]).epoch()))
        features = []
        for dtype in (torch.float32, torch.bfloat16):
            with self._reader(dtype) as read:
                features.append(read(item).features)
        exact, rough = features
        error = max(_relative_error(exact[stage], rough[stage]) for stage in exact)
        if request == "bfloat16" or error <= TOLERATED_ERROR:
            return Precision(torch.bfloat16, error)
        return Precision(error=error)

    def _fill(self, split: str, store: StoredSplit, shards: list[int]) -> None:
        positions = torch.cat([self.positions[split][store.shards[number]] for number in shards])
        with self._reader(self.precision.dtype) as read:
            parts = _regroup(
                (self._read(read, item) for item in self._batches(split, positions).epoch()),
                [store.shards[number].stop - store.shards[number].start for number in shards],
            )
            for number, part in zip(shards, parts, strict=True):
                part.index = self.positions[split][store.shards[number]].numpy()
                store.add(number, part)

    def _read(self, read: Reader, item: Any) -> Captured:
        self.before_batch()
        return read(item)

    def _reader(self, dtype: torch.dtype) -> AbstractContextManager[Reader]:
        heads = {
            name: self.model.head(depth)
            for depth, name in enumerate(self.names, start=1)
            if depth in self.model.head_depths
        }
        modules = {name: self.model.stages[name] for name in self.names}
        return capturing(
            _Stages(self.model, len(self.names)),
            self.names,
            pooling=self.pooling,
            heads=heads,
            modules=modules,
            device=self.device,
            precision=dtype,
            reading=self.model.token_reading,
        )

    def _flops_of_an_image(self) -> int:
        return self._pass_of_one_image().flops

    def _pass_of_one_image(self) -> ActivationMeter:
        with torch.no_grad(), ActivationMeter() as meter:
            self.model.run_stages(torch.zeros(1, *self.data.shape, device=self.device), 0, len(self.names))
        return meter

    def _batches(self, split: str, positions: Tensor) -> Batches:
        images = getattr(self.data, split).subset(positions)
        return Batches(
            images,
            max(1, min(BATCH, self.working_bytes // 2 // max(1, self._pass_of_one_image().peak_bytes))),
            mean=self.data.mean,
            std=self.data.std,
            seed=self.seed,
            device=self.device,
            channels_last=True,
        )


class _Stages(nn.Module):
    """The first stages of a network without any head: the last one may be of a stage that was never trained."""

    def __init__(self, model: StagedModel, depth: int) -> None:
        super().__init__()
        self.model, self.depth = model, depth

    def forward(self, x: Tensor) -> State:
        return self.model.run_stages(x, 0, self.depth)


def _regroup(batches: Iterator[Captured], sizes: list[int]) -> Iterator[Captured]:
    """The rows of ``batches`` in groups of ``sizes``."""
    held: list[Captured] = []
    count = 0
    for size in sizes:
        while count < size:
            held.append(next(batches))
            count += len(held[-1].labels)
        whole = _join(held)
        yield _rows(whole, slice(0, size))
        held, count = [_rows(whole, slice(size, None))], count - size


def _join(parts: list[Captured]) -> Captured:
    return Captured(
        {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features},
        np.concatenate([part.labels for part in parts]),
        {name: np.concatenate([part.logits[name] for part in parts]) for name in parts[0].logits},
    )


def _rows(captured: Captured, rows: slice) -> Captured:
    return Captured(
        {name: array[rows] for name, array in captured.features.items()},
        captured.labels[rows],
        {name: array[rows] for name, array in captured.logits.items()},
    )


def _relative_error(exact: np.ndarray, rough: np.ndarray) -> float:
    spread = float(np.sqrt(exact.var(axis=0, dtype=np.float64).mean()))
    difference = float(np.sqrt(np.square(exact - rough, dtype=np.float64).mean()))
    return difference / spread if spread > 0 else (0.0 if difference == 0 else np.inf)


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
