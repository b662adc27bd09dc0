"""The frozen prefix of a phase: what its stages make of the images, computed live or once and kept.

In greedy training the prefix of a stage never changes, so its outputs can be computed once; a stage then costs its
own forward and backward pass only. Augmentation needs several of them: ``views`` augmented versions of every image,
which the epochs of a stage take in turn.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lwexplain.data.batches import Batches
from lwexplain.data.transfer import sent
from lwexplain.errors import TrainingError
from lwexplain.memory import available_memory
from lwexplain.models.staged import StagedModel, State, as_tuple

Place = Literal["device", "memory", "disk"]

SHARE = 0.5
"""The part of what is free on a device, in memory or on a disk that the caches of all processes may take."""


def views_for(epochs: int, wanted: int | None = None) -> int:
    """How many views to keep for ``epochs`` of a stage: as wanted, else a fifth of the epochs, but 2 to 8.

    A view costs one forward pass of a stage over all images, an epoch about three; so views stay cheap beside training.
    """
    return min(epochs, wanted or max(2, min(8, epochs // 5)))


class PrefixBatch(NamedTuple):
    """``state`` after the frozen stages (the images where there are none), with labels (N,), images (N, C, H, W) and
    the positions (N,) in the split. ``images`` is empty (0 rows) where nobody looks at them."""

    state: State
    labels: Tensor
    images: Tensor
    positions: Tensor

    def split(self, parts: int) -> list["PrefixBatch"]:
        """The batch in ``parts`` consecutive parts of nearly equal size."""
        if parts == 1:
            return [self]
        states = zip(*(part.tensor_split(parts) for part in as_tuple(self.state)), strict=True)
        rest = (part.tensor_split(parts) for part in (self.labels, self.images, self.positions))
        return [
            PrefixBatch(state if isinstance(self.state, tuple) else state[0], *others)
            for state, *others in zip(states, *rest, strict=True)
        ]


class LivePrefix:
    """Runs the frozen stages on every batch."""

    def __init__(self, model: StagedModel, depth: int, autocast: Callable[[], torch.autocast]) -> None:
        self.model, self.depth, self.autocast = model, depth, autocast

    def training(self, batches: Batches, key: int, epoch: int, start: int) -> Iterator[PrefixBatch]:
        """The batches of the order ``key`` from step ``start`` on."""
        return self._run(batches, key, start)

    def validation(self, batches: Batches) -> Iterator[PrefixBatch]:
        """The batches of val in order."""
        return self._run(batches, 0, 0)

    def _run(self, batches: Batches, key: int, start: int) -> Iterator[PrefixBatch]:
        for images, labels, index in batches.epoch(key, start):
            with torch.no_grad(), self.autocast():
                state = self.model.run_stages(images, 0, self.depth)
            yield PrefixBatch(state, labels, images, index)


class PrefixCache:
    """Outputs of the frozen stages for every image of train (``views`` times) and val, kept where they fit.

    ``deepen`` runs the next frozen stage over what is kept and keeps its outputs instead. The states are kept in the
    type in which the stages hand them over, so nothing is rounded: a cache that is built again after an interruption
    holds the same bits. ``place`` is ``device``, ``memory`` or ``disk`` (a memory-mapped file in ``folder``, gone with
    the process); None takes the first one with room in the ``share`` of what is free that may be taken.
    """

    def __init__(
        self,
        model: StagedModel,
        train: Batches,
        val: Batches,
        autocast: Callable[[], torch.autocast],
        *,
        views: int,
        place: Place | None,
        folder: Path,
        keep_images: bool,
        share: float = SHARE,
    ) -> None:
        self.model, self.autocast = model, autocast
        self.views = views if train.augment is not None else 1
        self.place, self.folder, self.keep_images, self.share = place, folder, keep_images, share
        self.depth = 0
        self.places: set[Place] = set()
        self._sources = {"train": train, "val": val}
        self._kept: dict[str, list[Tensor]] = {}
        self._images: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Size of everything that is kept."""
        kept = [*self._kept.get("train", []), *self._kept.get("val", [])]
        return sum(part.nbytes for part in [*kept, *([] if self._images is None else [self._images])])

    def deepen(self, depth: int) -> None:
        """Go on to the outputs of the first ``depth`` stages, which must be frozen by now.

        Raises TrainingError where no place is large enough; then nothing is kept.
        """
        while self.depth < depth:
            self.places = set()
            for split in ("train", "val"):
                try:
                    self._kept[split] = self._next(split)
                except TrainingError:
                    self._kept, self._images, self.depth = {}, None, 0
                    raise
            self.depth += 1

    # ------------------------------------------------------------------ reading

    def training(self, batches: Batches, key: int, epoch: int, start: int) -> Iterator[PrefixBatch]:
        """The batches of the order ``key`` from step ``start`` on, from the view that is due in this epoch."""
        return self._gather("train", batches, batches.steps(key, start), epoch % self.views)

    def validation(self, batches: Batches) -> Iterator[PrefixBatch]:
        """The batches of val in order; ``batches`` says which rows."""
        return self._gather("val", batches, batches.steps(), 0)

    def _gather(self, split: str, batches: Batches, steps: Sequence[Tensor], view: int) -> Iterator[PrefixBatch]:
        offset = view * len(batches.images)
        device = batches.device
        for whole in steps:
            index = whole[batches.shard_of(len(whole))]
            state = _rows(self._kept[split], index + offset, device)
            images = torch.empty(0, device=device)
            if self._images is not None and split == "train":
                images = batches.normalised(sent(self._images.index_select(0, index + offset), device))
            elif self.keep_images:
                images = batches.normalised(sent(batches.images.gather(index), device))
            yield PrefixBatch(state, batches.labels[sent(index, device)], images, index)

    # ------------------------------------------------------------------ filling

    def _next(self, split: str) -> list[Tensor]:
        """The outputs of the next stage for all rows of a split."""
        source = self._sources[split]
        views = self.views if split == "train" else 1
        count = len(source.images)
        kept: list[Tensor] = []
        stage = self.model.body[self.depth]
        for view in range(views):
            first = view * count
            for state, images in self._read(split, view):
                with torch.no_grad(), self.autocast():
                    state = stage(state)
                parts = as_tuple(state)
                if not kept:
                    kept = self._allocate(parts, views * count)
                last = first + len(parts[0])
                for target, part in zip(kept, parts, strict=True):
                    target[first:last] = _rows_last(part)
                if self.keep_images and split == "train" and self.depth == 0:
                    if self._images is None:
                        self._images = torch.empty((views * count, *images.shape[1:]), dtype=torch.uint8)
                    self._images[first:last] = source.pixels(images).cpu()
                first = last
        return kept

    def _read(self, split: str, view: int) -> Iterator[tuple[State, Tensor]]:
        """States at the present depth of one view, in the order of the split, with the images at depth 0."""
        source = self._sources[split]
        if self.depth == 0:
            for images, _, _ in source.epoch(key=view):
                yield images, images
            return
        first, end = view * len(source.images), (view + 1) * len(source.images)
        for rows in torch.arange(first, end).split(source.batch_size):
            yield _rows(self._kept[split], rows, source.device), torch.empty(0)

    def _allocate(self, parts: Sequence[Tensor], rows: int) -> list[Tensor]:
        needed = sum(part[0].nbytes for part in parts) * rows
        place = self.place or self._first_that_holds(needed, parts[0].device)
        if place is None:
            raise TrainingError(
                f"the prefix cache needs {needed / 2**30:.1f} GiB for the stage after depth {self.depth}, more than "
                f"memory and the disk of {self.folder} can spare; set training.prefix_views=1 or "
                "training.prefix_cache=off"
            )
        self.places.add(place)
        shapes = [(rows, *_rows_last(part).shape[1:]) for part in parts]
        try:
            if place == "disk":
                return [self._mapped(shape, part.dtype) for shape, part in zip(shapes, parts, strict=True)]
            return [
                torch.empty(shape, dtype=part.dtype, device=part.device if place == "device" else "cpu")
                for shape, part in zip(shapes, parts, strict=True)
            ]
        except (OSError, RuntimeError) as error:
            where = self.folder if place == "disk" else place
            raise TrainingError(
                f"cannot keep the prefix cache of {needed / 2**30:.1f} GiB in {where}: {str(error).splitlines()[0]}; "
                "set training.prefix_views=1 or training.prefix_cache=off"
            ) from None

    def _first_that_holds(self, needed: int, device: torch.device) -> Place | None:
        if device.type == "cuda" and needed <= self.share * torch.cuda.mem_get_info(device)[0]:
            return "device"
        if needed <= self.share * available_memory():
            return "memory"
        return "disk" if needed <= self.share * shutil.disk_usage(self.folder).free else None

    def _mapped(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor in a file without a name: the system takes it back when the tensor or the process is gone."""
        count = math.prod(shape)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".prefix-") as file:
            if hasattr(os, "posix_fallocate"):  # so that a full disk is an error here, not later
                os.posix_fallocate(file.fileno(), 0, count * dtype.itemsize)
            else:
                file.truncate(count * dtype.itemsize)
            return torch.from_file(file.name, shared=True, size=count, dtype=dtype).reshape(shape)


def _rows_last(part: Tensor) -> Tensor:
    """A state so that each row lies in one piece: (N, C, H, W) -> (N, H, W, C)."""
    return part.permute(0, 2, 3, 1) if part.ndim == 4 else part


def _rows(parts: Sequence[Tensor], rows: Tensor, device: torch.device) -> State:
    """Some rows of what is kept, as a state on the device."""
    found = [sent(part.index_select(0, sent(rows, part.device)), device) for part in parts]
    state = tuple(part.permute(0, 3, 1, 2) if part.ndim == 4 else part for part in found)
    return state[0] if len(state) == 1 else state
