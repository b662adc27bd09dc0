"""One forward pass over the data: the features of all stages, and the logits of their heads."""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import nn

from lwexplain.capture.hooks import StageTap, find_modules, undisturbed, unwrap
from lwexplain.capture.pooling import Pooling, pool
from lwexplain.errors import CaptureError


@dataclass
class Captured:
    """``features[stage]`` (N, D) float32, ``labels`` (N,) int64, ``logits[stage]`` (N, K) float32 where the
    stage has a head; rows in the order of the batches. ``index`` (N,) int64 where the batches carry one."""

    features: dict[str, np.ndarray]
    labels: np.ndarray
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    index: np.ndarray | None = None


def extract(
    model: nn.Module,
    batches: Iterable[Sequence[Any]],
    stages: Sequence[str],
    *,
    pooling: Pooling = "mean",
    heads: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    device: torch.device | str = "cpu",
    store: str | os.PathLike[str] | None = None,
) -> Captured:
    """Capture ``stages`` (module paths, or keys of ``modules``) of ``model`` in one pass over ``batches``.

    ``batches`` yields ``(x, y)`` or ``(x, y, index)`` with normalised images x (N, C, H, W) and labels y
    (N,). ``heads[stage]`` maps the stage's raw output to logits (N, K). With ``store``, features go to
    ``STAGE.npy`` in that folder as they come and are returned memory-mapped, so that memory does not grow
    with N.

    Runs in evaluation mode without gradients; hooks, modes, devices and random state are afterwards as
    before, also after an exception. Raises CaptureError: an unknown, unused or repeatedly called stage, an
    output without samples in its first dimension, a value that is not finite, no data.
    """
    model = unwrap(model)
    heads = heads or {}
    strangers = [name for name in heads if name not in stages]
    if strangers:
        raise CaptureError(f"heads for {', '.join(strangers)}, which are not among the stages captured")
    found = find_modules(model, stages, modules)
    labels: list[np.ndarray] = []
    index: list[np.ndarray] = []
    batch: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def receive(name: str, raw: torch.Tensor) -> None:
        head = heads.get(name)
        rows = pool(raw, pooling)
        # a head may begin with an in-place layer, which must not reach the rest of the model
        batch[name] = (rows, head(raw.clone()).float() if head else None)

    parts = [model, *found.values(), *(head for head in heads.values() if isinstance(head, nn.Module))]
    with contextlib.ExitStack() as stack:
        stack.enter_context(undisturbed(parts, device))
        stack.enter_context(torch.no_grad())
        tap = stack.enter_context(StageTap(found, receive))
        features = {name: stack.enter_context(_rows_of(name, store)) for name in stages}
        logits = {name: stack.enter_context(_Rows()) for name in stages if name in heads}
        for item in batches:
            x, y, *rest = item
            batch.clear()
            tap.run(model, x.to(device, non_blocking=True))
            for name, (rows, scores) in batch.items():
                features[name].add(_checked(f"features of stage {name!r}", rows, len(x)))
                if scores is not None:
                    logits[name].add(_checked(f"logits of stage {name!r}", scores, len(x)))
            labels.append(np.asarray(y, dtype=np.int64).reshape(-1))
            if rest:
                index.append(np.asarray(rest[0], dtype=np.int64).reshape(-1))
        if not labels:
            raise CaptureError("no batches to capture from; the loader is empty")
        return Captured(
            features={name: rows.finish() for name, rows in features.items()},
            labels=np.concatenate(labels),
            logits={name: rows.finish() for name, rows in logits.items()},
            index=np.concatenate(index) if index else None,
        )


def _checked(what: str, rows: torch.Tensor, n: int) -> np.ndarray:
    if rows.ndim != 2 or len(rows) != n:
        raise CaptureError(
            f"{what} have shape {tuple(rows.shape)} for a batch of {n}; expected ({n}, D): the first "
            f"dimension must "
            "be the samples"
        )
    if not torch.isfinite(rows).all():
        bad = int((~torch.isfinite(rows)).any(1).sum())
        raise CaptureError(
            f"{what} are not finite for {bad} of {n} samples; the model or its input holds NaN or infinity, "
            f"or half "
            "precision overflows: capture it in float32"
        )
    return rows.cpu().numpy()


def _rows_of(name: str, store: str | os.PathLike[str] | None) -> "_Rows":
    if store is None:
        return _Rows()
    folder = Path(store)
    folder.mkdir(parents=True, exist_ok=True)
    return _StoredRows(folder / f"{quote(name, safe='')}.npy")


class _Rows:
    """Collects (n, D) blocks in memory."""

    def __init__(self) -> None:
        self.blocks: list[np.ndarray] = []

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self.blocks = []

    def add(self, block: np.ndarray) -> None:
        self.blocks.append(block)

    def finish(self) -> np.ndarray:
        blocks, self.blocks = self.blocks, []
        return np.concatenate(blocks)


class _StoredRows(_Rows):
    """Appends (n, D) float32 blocks to a .npy file, whose header is written when their number is known."""

    HEADER = 128  # bytes; the .npy format lets the header be padded

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.temporary = path.with_name(path.name + ".part")
        self.n = 0
        self.width = 0

    def __enter__(self) -> "_StoredRows":
        self.file = self.temporary.open("wb")
        self.file.write(bytes(self.HEADER))
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)

    def add(self, block: np.ndarray) -> None:
        self.n, self.width = self.n + len(block), block.shape[1]
        self.file.write(np.ascontiguousarray(block, dtype="<f4").data)

    def finish(self) -> np.ndarray:
        about = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.n}, {self.width}), }}".encode("ascii")
        prefix = b"\x93NUMPY\x01\x00" + (self.HEADER - 10).to_bytes(2, "little")
        self.file.seek(0)
        self.file.write(prefix + about.ljust(self.HEADER - 11) + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self.temporary, self.path)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)
