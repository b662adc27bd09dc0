"""Batches of a split, in an order that depends on (seed, epoch) alone, so that training resumes exactly."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lwexplain.config import AugmentConfig
from lwexplain.data.augment import Draws, augment_batch
from lwexplain.data.dataset import ImageArrays, ImageFiles, Images
from lwexplain.data.seeding import keyed_generator
from lwexplain.data.transfer import sent
from lwexplain.errors import DataError

Batch = tuple[Tensor, Tensor, Tensor]


class Batches:
    """Batches ``(x, y, index)`` of ``images``.

    ``x`` float32 (B, C, H, W), normalised by ``mean`` and ``std`` (one value per channel, pixels in [0, 1]),
    and ``y`` int64 (B,) lie on ``device``; ``index`` int64 (B,) on the CPU holds the positions in the split.

    The order of an epoch is a function of (seed, key), the augmentation of a step of (seed, key, step); no
    global random state is read or changed. Images in memory are put on the device once as uint8 if they fill
    at most half of what is free there; files are decoded by ``workers`` loader processes. Both, and any
    number of workers, give identical batches. With ``drop_last`` a split smaller than one batch is still one batch.
    With ``shard`` = (r, n) a batch holds only every n-th of its rows from the r-th on, the same rows as without; so the
    first half of the rows of all shards is the first half of the batch.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        drop_last: bool = False,
        augment: AugmentConfig | None = None,
        workers: int = 0,
        channels_last: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        if len(images) == 0:
            raise DataError("cannot make batches of an empty split")
        if len(mean) != images.shape[0] or len(std) != images.shape[0]:
            raise DataError(
                f"mean and std must hold a value for each of the {images.shape[0]} channels; found {mean}, {std}"
            )
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.shuffle = shuffle
        self.drop_last = drop_last
        if augment is not None:
            _check_augment(augment, min(images.shape[1:]))
        self.augment = augment if augment and (augment.crop or augment.flip or augment.cutout) else None
        self.workers = workers
        self.shard = shard
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._scale = torch.tensor([1 / (255 * s) for s in std]).reshape(1, -1, 1, 1).to(self.device)
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).reshape(1, -1, 1, 1)
        self._shift = self._shift.to(self.device)
        self._fill = torch.tensor([round(255 * m) for m in mean]).to(self.device)
        self.labels = images.labels.to(self.device)
        self._resident: Tensor | None = None
        if isinstance(images, ImageArrays):
            fits = _fits(images.images, self.device)
            self._resident = images.images.to(self.device) if fits else images.images

    def __len__(self) -> int:
        """Steps in an epoch."""
        if self.drop_last:
            return max(1, len(self.images) // self.batch_size)
        return math.ceil(len(self.images) / self.batch_size)

    def epoch(self, key: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``key`` from step ``start`` on, exactly those of the whole epoch.

        Raises DataError that names an image which cannot be read.
        """
        return self._iterate(key, start, self.steps(key, start))

    def steps(self, key: int = 0, start: int = 0) -> Sequence[Tensor]:
        """Positions in the split, int64 (B,) on the CPU, of each step of epoch ``key`` from step ``start`` on."""
        if not 0 <= start <= len(self):
            raise ValueError(f"start={start} lies outside the {len(self)} steps of an epoch")
        order = self._order(key)
        last = min(len(self) * self.batch_size, len(order))
        return order[start * self.batch_size : last].split(self.batch_size) if start < len(self) else ()

    def in_order(self, batch_size: int) -> "Batches":
        """The same images, augmented alike, in the order of the split, each of them once and in one shard."""
        other = copy.copy(self)
        other.batch_size, other.shuffle, other.drop_last, other.shard = batch_size, False, False, (0, 1)
        return other

    def shard_of(self, count: int) -> slice:
        """Which of the ``count`` rows of a whole batch belong to the shard."""
        part, parts = self.shard
        return slice(part, count, parts)

    def __iter__(self) -> Iterator[Batch]:
        """Epoch 0, for a split that is read in order."""
        return self.epoch()

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) on the device as float32, zero mean and unit variance, in the memory format."""
        return pixels.to(torch.float32, memory_format=self.memory_format).mul_(self._scale).add_(self._shift)

    def pixels(self, images: Tensor) -> Tensor:
        """The reverse of ``normalised``, exact."""
        return images.sub(self._shift).div_(self._scale).round_().clamp_(0, 255).to(torch.uint8)

    def _order(self, key: int) -> Tensor:
        if not self.shuffle:
            return torch.arange(len(self.images))
        return torch.randperm(len(self.images), generator=keyed_generator("order", self.seed, key))

    def _iterate(self, key: int, start: int, steps: Sequence[Tensor]) -> Iterator[Batch]:
        sharded = [index[self.shard_of(len(index))] for index in steps]
        pixels = self._pixels(sharded)
        for step, (whole, index, x) in enumerate(zip(steps, sharded, pixels, strict=True), start):
            if self.augment is not None:
                generator = keyed_generator("augment", self.seed, key, step)
                rows = self.shard_of(len(whole))
                x = augment_batch(x, self.augment, Draws(generator, len(whole), rows), self._fill)
            yield self.normalised(x), self.labels[sent(index, self.device)], index

    def _pixels(self, steps: Sequence[Tensor]) -> Iterator[Tensor]:
        """uint8 (B, C, H, W) on the device for each step."""
        if self._resident is not None:
            for index in steps:
                x = self._resident.index_select(0, sent(index, self._resident.device))
                yield sent(x, self.device)
        elif steps and isinstance(self.images, ImageFiles):
            yield from self._read(self.images, steps)

    def _read(self, images: ImageFiles, steps: Sequence[Tensor]) -> Iterator[Tensor]:
        loader = DataLoader(
            _Reader(images),
            sampler=steps,  # type: ignore[arg-type]  # each "sample" is the index tensor of one batch
            batch_size=None,
            collate_fn=_as_is,
            num_workers=min(self.workers, len(steps)),
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader would draw from the global one
        )
        try:
            for item in loader:
                if isinstance(item, DataError):
                    raise item
                yield item.to(self.device, non_blocking=True)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                "a loader process died, most often for want of memory; set data.workers=0 or a smaller "
                f"data.batch_size ({str(error).splitlines()[0]})"
            ) from None


class _Reader(Dataset[Tensor | DataError]):
    """Reads one batch; an error is handed back as a value, since a raised one loses its shape on the way."""

    def __init__(self, images: ImageFiles) -> None:
        self.images = images

    def __getitem__(self, index: Tensor) -> Tensor | DataError:
        try:
            return self.images.gather(index)
        except DataError as error:
            return error


def _check_augment(augment: AugmentConfig, side: int) -> None:
    for key, value in (("crop", augment.crop), ("cutout", augment.cutout)):
        if value > side:
            raise DataError(
                f"data.augment.{key}={value} is larger than the images, whose shorter side has {side} pixels; "
                f"set it to {side} or less"
            )


def _as_is(item: Any) -> Any:
    return item


def _fits(images: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() <= free // 2
