"""Whether the loaders, images and labels that somebody passes in are what an analysis needs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.arguments import each_of, shown, with_article
from lwexplain.errors import CaptureError

SPLITS = ("train", "val", "test")
MOST_CLASSES = 100_000
"""Labels from here on are taken for something else than classes (identities, dates)."""

BATCH = "a batch must be (images, labels) or (images, labels, index)"


def check_loaders(loaders: Any) -> dict[str, Iterable[Any]]:
    """The loader of each split; raises CaptureError where one is missing or no loader, or two are one iterator."""
    if not isinstance(loaders, Mapping):
        raise CaptureError(
            f"loaders is {shown(loaders)}; expected a mapping of train, val and optionally test to loaders, "
            "such as {'train': train_loader, 'val': val_loader}"
        )
    missing = [split for split in ("train", "val") if split not in loaders]
    unknown = [split for split in loaders if split not in SPLITS]
    if missing or unknown:
        raise CaptureError(
            f"loaders must have the keys train and val (test is optional); missing {missing}, unknown {shown(unknown)}"
        )
    for split, loader in loaders.items():
        if isinstance(loader, (str, bytes, Tensor, Mapping)) or not _is_iterable(loader):
            raise CaptureError(
                f"the loader {split!r} is {shown(loader)}; expected something that gives batches (images, labels), "
                "such as a torch.utils.data.DataLoader or a list of batches"
            )
    iterators = [split for split, loader in loaders.items() if isinstance(loader, Iterator)]
    shared = [split for split in iterators if sum(loaders[split] is loaders[other] for other in iterators) > 1]
    if shared:
        raise CaptureError(
            f"the loaders {' and '.join(map(repr, shared))} are one iterator, which can be read only once; "
            "pass a DataLoader or a list for each split"
        )
    return dict(loaders)


def _is_iterable(loader: Any) -> bool:
    return isinstance(loader, Iterable) or callable(getattr(type(loader), "__getitem__", None))


def checked_batches(batches: Iterable[Any], split: str, model: nn.Module) -> Iterator[Sequence[Any]]:
    """The batches of a split, each looked at before it is passed on.

    Raises CaptureError for a batch that is none, images that are not what ``check_images`` asks for or differ in shape
    from the ones before, and a loader without images; UserCodeError for what the loader itself raises.
    """
    pictures = takes_pictures(model)
    shape: tuple[int, ...] | None = None
    for number, batch in enumerate(each_of(batches, f"the loader {split!r}"), start=1):
        where = f"batch {number} of {split!r}"
        images = read_batch(batch, where)[0]
        if not len(images):
            continue
        check_images(images, where, pictures=pictures)
        found = tuple(images.shape[1:])
        if shape is not None and found != shape:
            raise CaptureError(
                f"{where} holds images of shape {found}, the batches before it {shape}; resize them to one shape"
            )
        shape = found
        yield batch
    if shape is None:
        raise CaptureError(
            f"the loader {split!r} gave no batches to capture from; the loader is empty, or an iterator that was read "
            "before: pass a DataLoader or a list"
        )


def takes_pictures(model: nn.Module) -> bool:
    """Whether the model has layers that read a tensor without a batch dimension as one image, so that the samples of
    (N, H, W) would be taken for its channels."""
    return any(isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) for module in model.modules())


def check_images(images: Tensor, where: str, *, pictures: bool) -> None:
    """Raise CaptureError unless images are dense floating-point numbers, all finite, (N, C, H, W) for a model that
    takes ``pictures``; other models may also take rows, sequences or integer tokens (N, T)."""
    shape, kind = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    wanted = "expected images float32 (N, C, H, W)"
    if images.layout != torch.strided or images.is_quantized or images.is_meta:
        raise CaptureError(f"{where} holds a sparse, quantised or meta tensor; {wanted} with values in memory")
    if images.ndim < 2 or (pictures and images.ndim != 4):
        remedy = "; add the channel with images[:, None]" if images.ndim == 3 else ""
        raise CaptureError(f"{where} holds images of shape {shape}; {wanted}{remedy}")
    if images.ndim == 2 and images.dtype in (torch.int32, torch.int64) and not pictures:
        return  # tokens
    if images.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise CaptureError(
            f"{where} holds images of {kind}; {wanted}, scaled and normalised as the model was trained "
            "(for pixels from 0 to 255: images.float() / 255)"
        )
    if not torch.isfinite(images).all():
        bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
        raise CaptureError(f"{where}: {bad} of {len(images)} images hold NaN or infinity; leave them out or mend them")


def read_batch(item: Any, where: str = "") -> tuple[Tensor, np.ndarray, np.ndarray | None]:
    """Images, labels (N,) int64 and, where there is one, index (N,) int64; raises CaptureError."""
    form = f"{where}: {BATCH}" if where else BATCH
    if not isinstance(item, (tuple, list)):
        found = with_article(type(item).__name__) if isinstance(item, Tensor) else shown(item)
        raise CaptureError(f"{form}, found {found}; wrap the loader so that it yields tuples")
    if len(item) not in (2, 3):
        raise CaptureError(f"{form}, found {len(item)} items; wrap the loader so that it yields two or three")
    images = item[0]
    if not isinstance(images, Tensor) or images.ndim == 0:
        found = shown(images) if not isinstance(images, Tensor) else "a single number"
        raise CaptureError(f"{form}; the images must be a tensor (N, C, H, W), found {found}")
    labels = _integers(item[1], len(images), form, "labels", "one class number (0, 1, 2, ...) an image")
    if len(labels) and labels.max() >= MOST_CLASSES:
        raise CaptureError(
            f"{form}; labels must be class numbers below {MOST_CLASSES:,}, found {labels.max()}; number the classes "
            "from 0"
        )
    if len(item) == 2:
        return images, labels, None
    return images, labels, _integers(item[2], len(images), form, "index", "the position of each image in its data set")


def _integers(values: Any, n: int, form: str, what: str, meaning: str) -> np.ndarray:
    wanted = f"{form}; {what} must be {n} integers of at least 0, {meaning}"
    try:
        found = torch.as_tensor(values).cpu()
    except Exception:  # anything may stand in the place of labels
        raise CaptureError(f"{wanted}, found {shown(values)}") from None
    if tuple(found.shape) not in ((n,), (n, 1)):
        advice = "; turn one-hot rows into class numbers with argmax(1)" if what == "labels" and found.ndim > 1 else ""
        raise CaptureError(f"{wanted}, found the shape {tuple(found.shape)}{advice}")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        kind = str(found.dtype).removeprefix("torch.")
        raise CaptureError(f"{wanted}, found {kind} values")
    if n and int(found.min()) < 0:
        raise CaptureError(f"{wanted}, found {int(found.min())}")
    return found.reshape(-1).to(torch.int64).numpy()
