"""From the ``data`` section of the configuration to train, val and test."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lwexplain.config import DataConfig
from lwexplain.data.blank import blank_images
from lwexplain.data.dataset import DATASETS, DataSplits, ImageArrays, ImageFiles, Images, Source
from lwexplain.data.file_facts import reading_of
from lwexplain.data.same_data import CONTENTS
from lwexplain.data.seeding import keyed_generator
from lwexplain.data.splits import stratified_split, stratified_subset
from lwexplain.errors import DataError
from lwexplain.memory import available_memory
from lwexplain.registry import nearest

STATS_LIMIT = 50_000  # images of a file set that mean and std are computed on
MIN_STD = 1e-3  # below this a channel counts as constant
CHUNK = 1024


def load_data(config: DataConfig, seed: int) -> DataSplits:
    """Build the data set of ``config`` and its splits, which depend on the labels and ``seed`` alone.

    Of a set narrowed to some ``classes`` the others are as if they were not there. ``test`` is the set's own or
    ``test_fraction`` of its images; then ``val_fraction`` of the rest is ``val`` and ``train`` is what remains, or a
    stratified subset of ``train_size``. ``label_noise`` then redraws labels of ``train`` and ``val``, never of
    ``test``. Images are converted to ``image_size`` and ``channels``. File sets are decoded into memory where
    ``resident`` says so or, if it is not set, where they fill at most a quarter of the free memory; sets that come as
    arrays always stay there. ``mean`` and ``std`` are those of ``train``, of 50,000 evenly spaced images where a file
    set has more.

    Raises DataError (missing or damaged files, too few images) and UnknownNameError (data set or option).
    """
    source = DATASETS.create(config.name, config, options=config.options)
    check_source(source)
    source = with_one_reading(source)
    if config.classes is not None:
        source = of_classes(source, config.classes)
    train, test, classes = source.train, source.test, source.classes
    if test is None:
        kept, held_out = stratified_split(train.labels, config.test_fraction, seed, part="test", classes=classes)
        train, test = train.subset(kept), train.subset(held_out)
    kept, held_out = stratified_split(train.labels, config.val_fraction, seed, part="val", classes=classes)
    train, val = train.subset(kept), train.subset(held_out)
    if config.train_size is not None:
        train = train.subset(stratified_subset(train.labels, config.train_size, seed, classes=classes))
    train = redraw_labels(train, config.label_noise, len(classes), seed, part="train")
    val = redraw_labels(val, config.label_noise, len(classes), seed, part="val")

    parts = [convert(part, config.image_size, config.channels) for part in (train, val, test)]
    prints = [part.fingerprint() for part in parts]
    digest = hashlib.sha256(repr(classes).encode(errors="surrogatepass"))
    for each in prints:
        digest.update(each.encode())
    kind = CONTENTS if any(isinstance(part, ImageFiles) for part in parts) else ""
    parts = [replace(part, facts=None) if isinstance(part, ImageFiles) else part for part in parts]

    rows = _stats_rows(parts[0])
    if _keep_in_memory(parts, config.resident):
        parts = [part.load() if isinstance(part, ImageFiles) else part for part in parts]
    train, val, test = parts
    mean, std = channel_stats(train, rows)
    return DataSplits(
        source.name,
        classes,
        train,
        val,
        test,
        mean,
        std,
        kind + digest.hexdigest(),
        len(rows),
        (*source.notes, *blank_images(train, rows, classes)),
        dict(zip(("train", "val", "test"), prints, strict=True)),
    )


def with_one_reading(source: Source) -> Source:
    """The source with the same rules for all its image files, and what there is to say of them among its notes."""
    files = [part for part in (source.train, source.test) if isinstance(part, ImageFiles)]
    if not files:
        return source
    examined = [part.examined() for part in files]
    paths = [path for part in files for path in part.paths]
    reading, notes = reading_of(paths, [fact for facts in examined for fact in facts])
    ready = {id(part): replace(part, reading=reading, facts=facts) for part, facts in zip(files, examined, strict=True)}
    train = ready.get(id(source.train), source.train)
    test = None if source.test is None else ready.get(id(source.test), source.test)
    return replace(source, train=train, test=test, notes=(*source.notes, *notes))


def check_source(source: Source) -> None:
    """Raise DataError unless labels fit the classes: two or more, each with training images."""
    count = len(source.classes)
    if count < 2:
        raise DataError(f"data set {source.name!r} has {count} class; a classifier needs at least 2")
    for part, images in (("train", source.train), ("test", source.test)):
        if images is None:
            continue
        if len(images) == 0:
            raise DataError(f"data set {source.name!r} has no {part} images")
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= count:
            raise DataError(
                f"data set {source.name!r}: {part} labels go from {low} to {high}, expected 0 to {count - 1}"
            )
    present = torch.bincount(source.train.labels, minlength=count)
    missing = [name for name, number in zip(source.classes, present.tolist(), strict=True) if number == 0]
    if missing:
        raise DataError(f"data set {source.name!r} has no training images of class {missing[0]!r}")
    if source.test is not None and source.test.shape != source.train.shape:
        raise DataError(
            f"data set {source.name!r}: (channels, height, width) of test images is "
            f"{source.test.shape}, of training images {source.train.shape}"
        )


def of_classes(source: Source, names: Sequence[str]) -> Source:
    """The images of the classes ``names`` alone, labelled by their place in that list.

    Raises DataError for fewer than two, one named twice, and one that the set does not have.
    """
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise DataError(f"data.classes={list(names)} must name two or more different classes")
    for name in names:
        if name not in source.classes:
            raise DataError(f"data set {source.name!r} has no class {name!r}; {nearest(name, source.classes)}")
    new_label = torch.full((len(source.classes),), -1)
    new_label[[source.classes.index(name) for name in names]] = torch.arange(len(names))

    def narrowed(images: Images) -> Images:
        kept = (new_label[images.labels] >= 0).nonzero().flatten()
        images = images.subset(kept)
        return replace(images, labels=new_label[images.labels])

    test = None if source.test is None else narrowed(source.test)
    narrow = replace(source, classes=list(names), train=narrowed(source.train), test=test)
    check_source(narrow)
    return narrow


def redraw_labels(images: Images, share: float, num_classes: int, seed: int, *, part: str) -> Images:
    """The same images, ``round(share * N)`` labels at random places drawn anew, uniformly from all classes.

    The true class may be drawn again: of K classes about ``share * (1 - 1/K)`` of the labels come out wrong, and a
    share of 1 leaves labels that tell nothing about the images (Zhang et al. 2017, "Understanding deep learning
    requires rethinking generalization"). A larger share redraws the same labels alike and others besides. A class
    may lose all its images. ``part`` keeps splits with the same seed apart.
    """
    generator = keyed_generator("label_noise", seed, part)
    places = torch.randperm(len(images), generator=generator)[: round(share * len(images))]
    drawn = torch.randint(num_classes, (len(images),), generator=generator)
    labels = images.labels.clone()
    labels[places] = drawn[places]
    return replace(images, labels=labels)


def convert(images: Images, image_size: int | None, channels: int | None) -> Images:
    """Bring images to ``image_size`` x ``image_size`` pixels and ``channels`` (None leaves them as they are).

    Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); resizing is bilinear, antialiased.
    """
    have, height, width = images.shape
    want = channels or have
    size = (image_size, image_size) if image_size else (height, width)
    if want == have and size == (height, width):
        return images
    if isinstance(images, ImageFiles):
        return replace(images, channels=want, size=size, resize=images.resize or size != (height, width))
    if have not in (1, 3) and want != have:
        raise DataError(f"cannot convert images of {have} channels to {want}; leave data.channels unset")
    out = torch.empty((len(images), want, *size), dtype=torch.uint8)
    for first in range(0, len(images), CHUNK):
        out[first : first + CHUNK] = _convert_pixels(images.images[first : first + CHUNK], want, size)
    return ImageArrays(out, images.labels)


def channel_stats(images: Images, rows: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of the images at ``rows``, for pixel values in [0, 1].

    Summed in integers, hence exact in any order; a constant channel has ``std`` 1.
    """
    total = torch.zeros(images.shape[0], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for chunk in rows.split(CHUNK):
        pixels = images.gather(chunk).to(torch.int32)
        total += pixels.sum(dim=(0, 2, 3), dtype=torch.int64)
        squares += pixels.square_().sum(dim=(0, 2, 3), dtype=torch.int64)
    count = len(rows) * images.shape[1] * images.shape[2]
    mean = total.double() / count
    std = (squares.double() / count - mean.square()).clamp_min(0).sqrt() / 255
    std = torch.where(std < MIN_STD, 1.0, std)
    return (mean / 255).tolist(), std.tolist()


def _keep_in_memory(parts: list[Images], resident: bool | None) -> bool:
    if resident is not None:
        return resident
    needed = sum(len(part) * part.shape[0] * part.shape[1] * part.shape[2] for part in parts)
    return needed <= available_memory() // 4


def _stats_rows(train: Images) -> Tensor:
    count = len(train)
    if isinstance(train, ImageFiles) and count > STATS_LIMIT:
        return torch.arange(STATS_LIMIT) * count // STATS_LIMIT
    return torch.arange(count)


def _convert_pixels(pixels: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    x = pixels.to(torch.float32)
    if channels == 1 and x.shape[1] == 3:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    if size != tuple(x.shape[2:]):
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
    return x.round().clamp(0, 255).to(torch.uint8).expand(-1, channels, -1, -1)
