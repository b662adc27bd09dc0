"""One forward pass over the data: the features of all stages, and the logits of their heads."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import torch
from torch import nn

from lwexplain.arguments import each_of, shown
from lwexplain.capture.hooks import StageTap
from lwexplain.capture.pooling import Pooling, pool
from lwexplain.data.batch_parts import BATCH
from lwexplain.data.given_batches import read_batch
from lwexplain.errors import CaptureError, ModelError
from lwexplain.models.final_norm import find_final_norm, normalised
from lwexplain.models.layout import Layout
from lwexplain.models.modules import find_modules, in_evaluation, unwrap
from lwexplain.models.outputs import logits_in
from lwexplain.models.token_reading import UNKNOWN, TokenReading
from lwexplain.models.tokens import Call


@dataclass
class Captured:
    """What one pass captured, rows in the order of the batches.

    ``features[stage]`` (N, D) float32, ``labels`` (N,) int64, ``logits[stage]`` (N, K) float32 where the stage has a
    head, ``index`` (N,) int64 where the batches carry one.

    ``layouts[stage]`` says how the stage's own output lay, ``reading`` what the model's own head reads of tokens, where
    some are no patches. ``no_output`` says why the last stage has no logits where those that the model returns were
    asked for.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    index: np.ndarray | None = None
    layouts: dict[str, Layout] = field(default_factory=dict)
    no_output: str = ""
    reading: TokenReading = UNKNOWN
    final_norm: tuple[str, nn.Module] | None = None

    @property
    def stages(self) -> list[str]:
        """Names of the stages in the order in which they run."""
        return list(self.features)


Head = Callable[[torch.Tensor], torch.Tensor]
Reader = Callable[[Any], Captured]
"""From one batch to what the stages make of it."""

Rows = TypeVar("Rows", torch.Tensor, np.ndarray)


def extract(
    model: nn.Module,
    batches: Iterable[Sequence[Any]],
    stages: Sequence[str],
    *,
    pooling: Pooling = "auto",
    heads: Mapping[str, Head] | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    store: str | os.PathLike[str] | None = None,
    own_output: bool = False,
    reading: TokenReading | None = None,
    final_norm: bool = False,
) -> Captured:
    """Capture ``stages`` of ``model`` in one pass over ``batches``; see ``capturing`` for what is captured.

    With ``store``, features go to ``STAGE.npy`` in that folder as they come and are returned memory-mapped, so that
    memory does not grow with N. Raises CaptureError as ``capturing`` does, and where there are no batches.
    """
    labels: list[np.ndarray] = []
    index: list[np.ndarray] = []
    with contextlib.ExitStack() as stack:
        read = stack.enter_context(
            capturing(
                model,
                stages,
                pooling=pooling,
                heads=heads,
                modules=modules,
                device=device,
                precision=precision,
                own_output=own_output,
                reading=reading,
                final_norm=final_norm,
            )
        )
        features: dict[str, _Rows] = {}
        logits: dict[str, _Rows] = {}
        layouts: dict[str, Layout] = {}
        no_output, found_reading, norm = "", UNKNOWN, None
        for item in _each(batches):
            batch = read(item)
            if not labels:
                features = {name: stack.enter_context(_rows_of(name, store)) for name in batch.features}
                logits = {name: stack.enter_context(_Rows()) for name in batch.logits}
                layouts, found_reading, norm = batch.layouts, batch.reading, batch.final_norm
            no_output = no_output or batch.no_output
            for name, rows in batch.features.items():
                features[name].add(rows)
            for name, rows in batch.logits.items():
                if name in logits:
                    logits[name].add(rows)
            labels.append(batch.labels)
            if batch.index is not None:
                index.append(batch.index)
            if len(index) not in (0, len(labels)):
                raise CaptureError("some batches carry an index and some do not; expected all of them to, or none")
        if not labels:
            raise CaptureError("no batches to capture from; the loader is empty")
        if no_output:
            logits.pop(list(features)[-1], None)
        return Captured(
            features={name: rows.finish() for name, rows in features.items()},
            labels=np.concatenate(labels),
            logits={name: rows.finish() for name, rows in logits.items()},
            index=np.concatenate(index) if index else None,
            layouts=layouts,
            no_output=no_output,
            reading=found_reading,
            final_norm=norm,
        )


@contextlib.contextmanager
def capturing(
    model: nn.Module,
    stages: Sequence[str],
    *,
    pooling: Pooling = "auto",
    heads: Mapping[str, Head] | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    own_output: bool = False,
    reading: TokenReading | None = None,
    final_norm: bool = False,
) -> Iterator[Reader]:
    """A function from a batch to the features of all ``stages`` (module paths, or keys of ``modules``) of ``model``.

    A batch is ``(x, y)`` or ``(x, y, index)``: normalised images x (N, C, H, W), integer labels y (N,) or (N, 1),
    integer positions index (N,). Floating-point images are cast to the dtype that the model computes with; with
    ``precision`` bfloat16 or float16 the forward pass runs under autocast. ``stages`` are named in the order in which
    they run; a module that is called several times gives one stage for each call, ``NAME#1`` and so on.
    ``heads[stage]`` maps the raw output of a stage that is called once to logits (N, K). With ``own_output`` the logits
    of the last stage are those in what the model returns. Stages are pooled over their positions wherever their
    channels lie; a pooling of one's own sees the output as it is. ``reading`` is what the network's head reads of its
    tokens, found on ``model`` where it is not given. With ``final_norm`` every stage passes through the network's own
    final normalisation before it is pooled, as only the last one does in the network.

    Runs in evaluation mode without gradients, each image passing once and only as far as the deepest stage unless its
    ``own_output`` is asked for; one image passes once more, which tells where the channels lie. Hooks, modes, devices
    and random state are afterwards as before, also after an exception. Raises CaptureError: an unknown or unused stage,
    stages out of order, a batch of another form, an output without samples in its first dimension, images that hold NaN
    or infinity. Features that do are kept as they are.
    """
    model = unwrap(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(
            "the model is a TorchScript module, whose calls hooks do not see; capture the model it was made from"
        )
    heads = heads or {}
    strangers = [name for name in heads if name not in stages]
    if strangers:
        raise CaptureError(f"heads for {', '.join(strangers)}, which are not among the stages captured")
    found = find_modules(model, stages, modules)
    head_of = {id(found[name]): head for name, head in heads.items()}
    held: dict[Call, tuple[torch.Tensor, torch.Tensor | None]] = {}
    place = torch.device(device)

    norms: list[tuple[str, nn.Module]] = []

    def receive(call: Call, raw: torch.Tensor) -> None:
        head = head_of.get(call[0])
        layout = (tap.layouts or {}).get(call, Layout())
        output = normalised(norms[0][1], raw, tap.name_of(call)) if norms else raw
        output = output if callable(pooling) else layout.in_order(output)
        try:
            rows = pool(output, pooling, tap.grids.get(call), tap.reading or UNKNOWN)
        except CaptureError as error:
            raise CaptureError(f"stage {tap.name_of(call)!r}: {error}") from None
        # a head may begin with an in-place layer, which must not reach the rest of the model
        held[call] = (rows, head(raw.clone()).float() if head else None)

    def read(item: Any) -> Captured:
        given = read_batch(item)
        x = given.images
        if x.is_floating_point():
            _finite("images", x.flatten(1))
        held.clear()
        if final_norm and not norms:
            norms.append(find_final_norm(model, x[:1].to(place), list(found.values())[-1]))
        with torch.autocast(place.type, precision, enabled=precision != torch.float32):
            returned = tap.run(model, x.to(place, non_blocking=True))
        batch = Captured({}, given.labels, index=given.index, reading=tap.reading or UNKNOWN)
        batch.final_norm = norms[0] if norms else None
        for call, name in tap.stages.items():
            rows, scores = held[call]
            batch.features[name] = _checked(f"features of stage {name!r}", rows, len(x))
            batch.layouts[name] = (tap.layouts or {}).get(call, Layout())
            if scores is not None:
                batch.logits[name] = _checked(f"logits of stage {name!r}", scores, len(x))
        held.clear()
        if own_output:
            try:
                own = logits_in(returned, len(x)).float()
                batch.logits[batch.stages[-1]] = _finite("logits of the model", _checked("logits", own, len(x)))
            except (ModelError, CaptureError) as error:
                batch.no_output = str(error)
        return batch

    parts = [model, *found.values(), *(head for head in heads.values() if isinstance(head, nn.Module))]
    tap = StageTap(found, receive, reading=reading, to_the_end=own_output)
    with in_evaluation(*parts, device=device), torch.no_grad(), tap:
        yield read


def _each(batches: Iterable[Any]) -> Iterator[Any]:
    if not isinstance(batches, Iterable):
        raise CaptureError(f"{BATCH}, and the batches must come from a loader or a list; found {shown(batches)}")
    return each_of(batches, "the loader")


def _checked(what: str, rows: torch.Tensor, n: int) -> np.ndarray:
    if rows.ndim != 2 or len(rows) != n:
        raise CaptureError(
            f"{what} have shape {tuple(rows.shape)} for a batch of {n}; expected ({n}, D): the first dimension must be "
            "the samples"
        )
    return rows.cpu().numpy()


def _finite(what: str, rows: Rows) -> Rows:
    """``rows`` (N, D) without NaN or infinity. Features may hold them: a stage that does is of no use to the probes,
    which say so and measure the others."""
    bad = int((~torch.isfinite(torch.as_tensor(rows))).any(1).sum())
    if bad:
        raise CaptureError(f"{what} are not finite for {bad} of {len(rows)} samples: they hold NaN or infinity")
    return rows


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

    HEADER = 128
    """Bytes before the numbers; the .npy format lets the header be padded."""

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
