"""What a data set is: uint8 images with labels, held in memory or read from files, and its splits.

A data set is a function that returns a Source. Registering it is all it takes to add one::

    @DATASETS.register("my_set")
    def my_set(config: DataConfig, *, colour: bool = True) -> Source: ...
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lwexplain.errors import DataError
from lwexplain.registry import Registry

DATASETS = Registry("data set", "lwexplain.data", group="lwexplain.datasets", options_key="data.options")

GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L")


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Images in memory: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,); else DataError."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(
                f"images must be uint8 of shape (N, C, H, W), found {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != (len(self.images),):
            raise DataError(
                f"labels must be int64 of shape ({len(self.images)},), one for each image, "
                f"found {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def subset(self, indices: Tensor) -> "ImageArrays":
        """The images at ``indices`` int64 (n,), in that order."""
        return ImageArrays(self.images.index_select(0, indices), self.labels.index_select(0, indices))

    def gather(self, indices: Tensor) -> Tensor:
        """uint8 (n, C, H, W) of the images at ``indices`` int64 (n,)."""
        return self.images.index_select(0, indices)

    def fingerprint(self) -> str:
        """SHA-256 over shape, pixels and labels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images read from files when asked for; ``labels`` int64 (N,).

    ``paths`` are relative to ``root`` (or absolute). Every image is converted to ``channels`` (1 grey,
    3 colour); 16-bit grey keeps its high byte. With ``resize`` it is scaled to ``size`` (height, width) in
    pixels, antialiased; without, an image of another size is an error. EXIF rotation is not applied.
    """

    paths: Sequence[str]
    labels: Tensor
    channels: int
    size: tuple[int, int]
    resize: bool = False
    root: Path = Path()

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.labels):
            raise DataError(f"{len(self.paths)} image files but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.channels, *self.size

    def subset(self, indices: Tensor) -> "ImageFiles":
        """The images at ``indices`` int64 (n,), in that order; reads no file."""
        return replace(
            self, paths=[self.paths[i] for i in indices.tolist()], labels=self.labels.index_select(0, indices)
        )

    def gather(self, indices: Tensor) -> Tensor:
        """uint8 (n, C, H, W) of the images at ``indices`` int64 (n,).

        Raises DataError that names the file which cannot be read or has another size.
        """
        images = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = self._decode(index)
        return images

    def load(self) -> ImageArrays:
        """All images in memory, decoded by a pool of threads; raises DataError as ``gather`` does."""
        images = torch.empty((len(self), *self.shape), dtype=torch.uint8)

        def fill(index: int) -> None:
            images[index] = self._decode(index)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                for _ in pool.map(fill, range(len(self))):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return ImageArrays(images, self.labels)

    def fingerprint(self) -> str:
        """SHA-256 over format, relative paths, file sizes in bytes and labels; pixels are not read."""
        digest = hashlib.sha256(repr((self.shape, self.resize)).encode())
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            digest.update(f"{path}\0{_file_size(self.root / path)}\0{label}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _decode(self, index: int) -> Tensor:
        return decode_image(self.root / self.paths[index], self.channels, self.size, self.resize)


Images = ImageArrays | ImageFiles


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as published: its class names and images, ``test`` None where it has no test set."""

    name: str
    classes: list[str]
    train: Images
    test: Images | None = None


@dataclass(frozen=True, eq=False)
class DataSplits:
    """The three splits. ``train`` fits weights and probes, ``val`` decides, ``test`` is read once to report.

    ``mean`` and ``std`` (one value per channel, pixel values in [0, 1]) come from ``stats_count`` images of
    ``train``. ``fingerprint`` is a SHA-256 over the classes and all three splits.
    """

    name: str
    classes: list[str]
    train: Images
    val: Images
    test: Images | None
    mean: list[float]
    std: list[float]
    fingerprint: str
    stats_count: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.shape

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def for_training(self) -> "DataSplits":
        """The same splits without ``test``, which training must not see."""
        return replace(self, test=None)


def decode_image(path: Path, channels: int, size: tuple[int, int], resize: bool) -> Tensor:
    """Read one image file as uint8 (C, H, W); raises DataError that names the file."""
    height, width = size
    try:
        with Image.open(path) as image:
            if not resize and image.size != (width, height):
                raise DataError(
                    f"{path} is {image.height}x{image.width} pixels, others are {height}x{width}; "
                    "set data.image_size to bring all images to one size"
                )
            picture = _eight_bit(image, path).convert("L" if channels == 1 else "RGB")
            if picture.size != (width, height):
                picture = picture.resize((width, height), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(picture))
    except DataError:
        raise
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise DataError(f"cannot read the image {path}: {error}; replace or remove the file") from None
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path} holds floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the image {path}: {error.strerror}") from None
