"""One forward pass over the data: the features of all stages, and the logits of their heads."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

    ``batches`` yields ``(x, y)`` or ``(x, y, index)``: normalised images x (N, C, H, W), integer labels y (N,)
    or (N, 1), integer positions index (N,). Floating-point images are cast to the dtype of the model's
    parameters where these share one. ``stages`` are named in the order in which they run. ``heads[stage]`` maps
    the stage's raw output to logits (N, K). With ``store``, features go to ``STAGE.npy`` in that folder as they
    come and are returned memory-mapped, so that memory does not grow with N.

    Runs in evaluation mode without gradients; hooks, modes, devices and random state are afterwards as
    before, also after an exception. Raises CaptureError: an unknown, unused or repeatedly called stage, stages
    out of order, a batch of another form, an output without samples in its first dimension, a value that is
    not finite, no data.
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
        for item in _each(batches):
            x, y, position = _read_batch(item)
            batch.clear()
            tap.run(model, x.to(device, non_blocking=True))
            for name, (rows, scores) in batch.items():
                features[name].add(_checked(f"features of stage {name!r}", rows, len(x)))
                if scores is not None:
                    logits[name].add(_checked(f"logits of stage {name!r}", scores, len(x)))
            labels.append(y)
            if position is not None:
                index.append(position)
            if len(index) not in (0, len(labels)):
                raise CaptureError("some batches carry an index and some do not; expected all of them to, or none")
        if not labels:
            raise CaptureError("no batches to capture from; the loader is empty")
        return Captured(
            features={name: rows.finish() for name, rows in features.items()},
            labels=np.concatenate(labels),
            logits={name: rows.finish() for name, rows in logits.items()},
            index=np.concatenate(index) if index else None,
        )


BATCH = "a batch must be (images, labels) or (images, labels, index)"


def _each(batches: Iterable[Any]) -> Iterator[Any]:
    if not isinstance(batches, Iterable):
        raise CaptureError(f"{BATCH}, and the batches must come from a loader or a list; found {batches!r}")
    return iter(batches)


def _read_batch(item: Any) -> tuple[torch.Tensor, np.ndarray, np.ndarray | None]:
    """Images, labels (N,) int64 and, where there is one, index (N,) int64; raises CaptureError."""
    if not isinstance(item, (tuple, list)):
        keys = f" with the keys {', '.join(map(str, item))}" if isinstance(item, Mapping) else ""
        raise CaptureError(f"{BATCH}, found a {type(item).__name__}{keys}; wrap the loader so that it yields tuples")
    if len(item) not in (2, 3):
        raise CaptureError(f"{BATCH}, found {len(item)} items; wrap the loader so that it yields two or three")
    x = item[0]
    if not isinstance(x, torch.Tensor) or x.ndim == 0:
        found = f"a {type(x).__name__}" if not isinstance(x, torch.Tensor) else "a single number"
        raise CaptureError(f"{BATCH}; the images must be a tensor (N, C, H, W), found {found}")
    labels = _integers(item[1], len(x), "labels", "one class number (0, 1, 2, ...) an image")
    if len(item) == 2:
        return x, labels, None
    return x, labels, _integers(item[2], len(x), "index", "the position of each image in its data set")


def _integers(values: Any, n: int, what: str, meaning: str) -> np.ndarray:
    wanted = f"{BATCH}; {what} must be {n} integers of at least 0, {meaning}"
    try:
        found = torch.as_tensor(values).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise CaptureError(f"{wanted}, found {_shortened(values)}") from None
    if tuple(found.shape) not in ((n,), (n, 1)):
        advice = "; turn one-hot rows into class numbers with argmax(1)" if what == "labels" and found.ndim > 1 else ""
        raise CaptureError(f"{wanted}, found the shape {tuple(found.shape)}{advice}")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise CaptureError(f"{wanted}, found {str(found.dtype).removeprefix('torch.')} values {_shortened(values)}")
    if n and int(found.min()) < 0:
        raise CaptureError(f"{wanted}, found {int(found.min())}")
    return found.reshape(-1).to(torch.int64).numpy()


def _shortened(values: Any) -> str:
    text = " ".join(repr(values).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


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
