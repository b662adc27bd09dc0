"""The loaders and batches that somebody passes in, read into images, class numbers and index."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.arguments import each_of, shown
from lwexplain.data.batch_form import BatchForm
from lwexplain.data.batch_parts import BATCH, OR_PICK, is_one_image, is_one_label, parts_of
from lwexplain.data.given_images import check_images, read_images, takes_pictures
from lwexplain.errors import CaptureError

SPLITS = ("train", "val", "test")
MOST_CLASSES = 100_000
"""Labels from here on are taken for something else than classes (identities, dates)."""


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
        check_loader(loader, f"the loader {split!r}")
    iterators = [split for split, loader in loaders.items() if isinstance(loader, Iterator)]
    shared = [split for split in iterators if sum(loaders[split] is loaders[other] for other in iterators) > 1]
    if shared:
        raise CaptureError(
            f"the loaders {' and '.join(map(repr, shared))} are one iterator, which can be read only once; "
            "pass a DataLoader or a list for each split"
        )
    return dict(loaders)


def check_loader(loader: Any, what: str) -> None:
    """Raise CaptureError where ``loader`` is none."""
    if isinstance(loader, (str, bytes, Tensor, Mapping)) or not _is_iterable(loader):
        called = "; call it" if callable(loader) else ""
        raise CaptureError(
            f"{what} is {shown(loader)}{called}; expected something that gives batches (images, labels), "
            "such as a torch.utils.data.DataLoader or a list of batches"
        )


def _is_iterable(loader: Any) -> bool:
    return isinstance(loader, Iterable) or callable(getattr(type(loader), "__getitem__", None))


@dataclass
class CheckedBatches:
    """The batches of a loader in the one form that an analysis takes: (images, labels) or (images, labels, index).

    Images are a tensor of floats (N, C, H, W), labels and index int64 (N,); empty batches are passed over. Each loop is
    a pass over the loader. After the first batch ``shape`` is that of an image and ``were_pixels`` says whether images
    came as uint8; ``notes`` is what a person should know of how they were read.

    A loop raises CaptureError for a batch that is none, images that are not what ``check_images`` asks for or differ in
    shape or kind from the ones before, and a loader without images; UserCodeError for what the loader itself raises.
    """

    loader: Iterable[Any]
    name: str
    pictures: bool
    form: BatchForm
    notes: list[str] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    were_pixels: bool = False

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        given = False
        for number, item in enumerate(each_of(self.loader, f"the loader {self.name!r}"), start=1):
            where = f"batch {number} of {self.name!r}"
            batch = read_batch(item, where, self.form)
            if not len(batch.images):
                continue
            check_images(batch.images, where, pictures=self.pictures)
            self.form.check_channels(batch.images, where)
            self._note(batch, where)
            given = True
            yield (batch.images, batch.labels) if batch.index is None else (batch.images, batch.labels, batch.index)
        if not given:
            read = (
                "it gave batches before, so it is an iterator that gives out after one pass"
                if self.shape
                else ("the loader is empty, or an iterator that was read before")
            )
            raise CaptureError(
                f"the loader {self.name!r} gave no batches to capture from; {read}: pass a DataLoader or a list"
            )

    def _note(self, batch: "Batch", where: str) -> None:
        found = tuple(batch.images.shape[1:])
        if self.shape is None:
            self.shape, self.were_pixels = found, batch.were_pixels
        if found != self.shape:
            raise CaptureError(
                f"{where} holds images of shape {found}, the batches before it {self.shape}; resize them to one shape"
            )
        if batch.were_pixels != self.were_pixels:
            kinds = ("uint8", "floats") if batch.were_pixels else ("floats", "uint8")
            raise CaptureError(
                f"{where} holds images of {kinds[0]}, the batches before it of {kinds[1]}; give all in one kind"
            )
        self.notes += [note for note in batch.notes if note not in self.notes]


def checked_batches(
    batches: Iterable[Any], split: str, model: nn.Module, form: BatchForm | None = None
) -> CheckedBatches:
    """The batches of a split for ``model``, each looked at before it is passed on; see CheckedBatches."""
    return CheckedBatches(batches, split, takes_pictures(model), form or BatchForm())


@dataclass(frozen=True, eq=False)
class Batch:
    """``images``; ``labels`` (N,) int64, empty where the batch has none; ``index`` (N,) int64 where there is one.

    ``were_pixels`` where the images came as uint8; ``notes`` is what a person should know of how they were read.
    """

    images: Tensor
    labels: np.ndarray
    index: np.ndarray | None = None
    were_pixels: bool = False
    notes: tuple[str, ...] = ()


def read_batch(item: Any, where: str = "", form: BatchForm | None = None, *, labelled: bool = True) -> Batch:
    """A batch of any common form; see ``parts_of`` for where images and labels may be, ``read_images`` for images.

    Raises CaptureError, also where a batch has no labels and must be ``labelled``.
    """
    form = form or BatchForm()
    wanted = f"{where}: {BATCH}" if where else BATCH
    parts = parts_of(item, wanted, form.pick)
    if labelled and len(parts) == 1:
        found = "a Tensor" if isinstance(item, Tensor) else shown(item)
        raise CaptureError(f"{wanted}, found {found} without labels; wrap the loader so that it yields both, {OR_PICK}")
    if len(parts) > 1 and is_one_image(parts[0]) and is_one_label(parts[1]):
        raise CaptureError(
            f"{wanted}, found a single image with one label; put the data set into a "
            "DataLoader(data_set, batch_size=...)"
        )
    given = read_images(parts[0], f"{wanted}; the images must be a tensor (N, C, H, W)", form)
    n = len(given.images)
    labels, index = np.empty(0, dtype=np.int64), None
    if len(parts) > 1:
        labels = _integers(parts[1], n, wanted, "labels", "one class number (0, 1, 2, ...) an image")
    if len(labels) and labels.max() >= MOST_CLASSES:
        raise CaptureError(
            f"{wanted}; labels must be class numbers below {MOST_CLASSES:,}, found {labels.max()}; number the classes "
            "from 0"
        )
    if len(parts) > 2:
        index = _integers(parts[2], n, wanted, "index", "the position of each image in its data set")
    return Batch(given.images, labels, index, given.were_pixels, given.notes)


def _integers(values: Any, n: int, form: str, what: str, meaning: str) -> np.ndarray:
    """Integers of any width and sign, (N,) or (N, 1), as int64 (N,)."""
    wanted = f"{form}; {what} must be {n} integers of at least 0, {meaning}"
    try:
        found = _as_tensor(values).cpu()
    except Exception:  # anything may stand in the place of labels
        raise CaptureError(f"{wanted}, found {shown(values)}") from None
    if tuple(found.shape) not in ((n,), (n, 1)):
        advice = "; turn one-hot rows into class numbers with argmax(1)" if what == "labels" and found.ndim == 2 else ""
        raise CaptureError(f"{wanted}, found the shape {tuple(found.shape)}{advice}")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        kind = str(found.dtype).removeprefix("torch.")
        raise CaptureError(f"{wanted}, found {kind} values")
    numbers = found.reshape(-1).numpy()
    if n and (int(numbers.min()) < 0 or int(numbers.max()) > np.iinfo(np.int64).max):
        out = int(numbers.min()) if int(numbers.min()) < 0 else int(numbers.max())
        raise CaptureError(f"{wanted}, found {out}")
    return numbers.astype(np.int64)


def _as_tensor(values: Any) -> Tensor:
    """Labels or positions as a tensor, also from a list of tensors or of NumPy's numbers; anything else raises."""
    first = values[0] if isinstance(values, (list, tuple)) and values else None
    if isinstance(first, Tensor):
        return torch.stack(list(values))
    return torch.as_tensor(np.asarray(values) if isinstance(first, (np.generic, np.ndarray)) else values)
