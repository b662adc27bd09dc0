"""What a data set is: uint8 images with labels, held in memory or read from files, and its splits.

A data set is a function that returns a Source. Registering it is all it takes to add one::

    @DATASETS.register("my_set")
    def my_set(config: DataConfig, *, colour: bool = True) -> Source: ...
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lwexplain.data.examination import examine_files
from lwexplain.data.file_facts import FileFacts
from lwexplain.data.image_file import Reading, decode_image
from lwexplain.errors import DataError
from lwexplain.registry import Registry

DATASETS = Registry("data set", "lwexplain.data", group="lwexplain.datasets", options_key="data.options")


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
    3 colour) and to 8 bits without transparency, as ``reading`` says for the whole data set. With ``resize`` it is
    scaled to ``size`` (height, width) in pixels, antialiased; without, an image of another size is an error. EXIF
    rotation is not applied. ``facts`` are those of each file where they are known already.
    """

    paths: Sequence[str]
    labels: Tensor
    channels: int
    size: tuple[int, int]
    resize: bool = False
    root: Path = Path()
    reading: Reading = field(default_factory=Reading)
    facts: Sequence[FileFacts] | None = None

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
        chosen = indices.tolist()
        return replace(
            self,
            paths=[self.paths[i] for i in chosen],
            labels=self.labels.index_select(0, indices),
            facts=None if self.facts is None else [self.facts[i] for i in chosen],
        )

    def examined(self) -> Sequence[FileFacts]:
        """The facts of every file; raises DataError that names a file which cannot be read."""
        return self.facts if self.facts is not None else examine_files(self.root, self.paths)

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
        """SHA-256 over format, reading, relative paths, the bytes of every file and labels."""
        digest = hashlib.sha256(repr((self.shape, self.resize, self.reading)).encode())
        for path, facts, label in zip(self.paths, self.examined(), self.labels.tolist(), strict=True):
            digest.update(f"{path}\0{facts.digest}\0{label}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _decode(self, index: int) -> Tensor:
        path = self.root / self.paths[index]
        return decode_image(path, self.channels, self.size, self.resize, self.reading)


Images = ImageArrays | ImageFiles


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as published: its class names and images, ``test`` None where it has no test set; ``notes`` is what a
    person should know of how it was read, a sentence each."""

    name: str
    classes: list[str]
    train: Images
    test: Images | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DataSplits:
    """The three splits. ``train`` fits weights and probes, ``val`` decides, ``test`` is read once to report.

    ``mean`` and ``std`` (one value per channel, pixel values in [0, 1]) come from ``stats_count`` images of
    ``train``. ``fingerprint`` stands for the classes and the contents of all three splits, ``part_fingerprints`` for
    each of them by name. ``notes`` is what a person should know of how the images were read, a sentence each.
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
    notes: tuple[str, ...] = ()
    part_fingerprints: Mapping[str, str] = field(default_factory=dict)

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
