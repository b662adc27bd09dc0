"""The fixed images that every look sees: a stratified sample of a val loader, read once and kept in memory."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.data.batch_form import BatchForm
from lwexplain.data.given_batches import check_loader, checked_batches
from lwexplain.errors import CaptureError
from lwexplain.models.module_state import random_states, set_random_states

IMAGES_A_CLASS = 10
"""A sample of n images holds at most n / 10 classes: of more, so many are chosen."""

VALUES = 1024
"""Values of an image that decide about its place in the order of choice."""

SLACK = 1.25
SPARE = 8
"""While the loader is read, a class keeps somewhat more images than its share calls for, as shares still change."""


@dataclass(frozen=True)
class Sample:
    """Images (N, ...) as the network takes them, on the CPU, and their labels (N,) int64, the class numbers given.

    The order deals out the classes in proportion, so that the ``first`` so many are a stratified sample, too. ``fit``
    (N,) marks the half that probes are fitted on: every second image of each class. ``seen`` images and
    ``classes_seen`` classes were in the loader, whose batches had ``batch_size`` images.
    """

    images: Tensor
    labels: np.ndarray
    fit: np.ndarray
    seen: int
    classes_seen: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[int]:
        """The numbers of the classes in the sample, ascending."""
        return [int(label) for label in np.unique(self.labels)]

    @property
    def chance(self) -> float:
        """The share of the most frequent class among the images that are not fitted on."""
        return float(np.bincount(self.labels[~self.fit]).max() / np.count_nonzero(~self.fit))

    @property
    def fingerprint(self) -> str:
        """What identifies the images and their labels."""
        digest = hashlib.blake2b(self.labels.astype("<i8").tobytes(), digest_size=16)
        for key in _keys_of(self.images, self.labels):
            digest.update(key)
        return digest.hexdigest()

    def first(self, n: int) -> "Sample":
        """The first ``n`` images."""
        return Sample(self.images[:n], self.labels[:n], self.fit[:n], self.seen, self.classes_seen, self.batch_size)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in batches of the loader's size."""
        labels = torch.from_numpy(self.labels)
        return zip(self.images.split(self.batch_size), labels.split(self.batch_size), strict=True)


def take_sample(loader: Iterable[Any], model: nn.Module, images: int, form: BatchForm | None = None) -> Sample:
    """Read the loader once and choose at most ``images`` of it, the classes in their proportions; ``form`` is how its
    batches are to be read.

    Of more than ``images`` / 10 classes so many are chosen. Which images and classes, their contents decide, not the
    order in which the loader gives them. The random states of Python, NumPy and torch, and those of the loader's own
    generators, are afterwards as before. Raises CaptureError where the loader gives no images and labels, or fewer than
    two classes of which two images each are in the sample.
    """
    check_loader(loader, "val_loader")
    choice = _Choice(images)
    with _random_states_kept(loader):
        for x, labels, *_ in checked_batches(loader, "val_loader", model, form):
            choice.add(x.detach().cpu(), labels)
    sample = choice.finish()
    usable = sum(np.count_nonzero(sample.labels == label) > 1 for label in sample.classes)
    if usable < 2:
        raise CaptureError(
            f"val_loader gave {len(sample)} images of {len(sample.classes)} classes, {usable} of them with two images "
            "or more; probes need two such classes: raise images=, or give a loader of all classes"
        )
    return sample


class _Choice:
    """Images chosen so far, by class in the order of their keys: those with the smallest stay."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.most_classes = max(2, images // IMAGES_A_CLASS)
        self.kept: dict[int, list[tuple[bytes, Tensor]]] = {}
        self.counts: dict[int, int] = {}
        self.classes: set[int] = set()
        self.seen = self.batch_size = 0

    def add(self, x: Tensor, labels: np.ndarray) -> None:
        self.seen, self.batch_size = self.seen + len(x), max(self.batch_size, len(x))
        self.classes.update(int(label) for label in np.unique(labels))
        chosen = sorted(self.classes, key=_class_key)[: self.most_classes]
        for label in self.kept.keys() - set(chosen):  # a class once left out never comes back
            del self.kept[label], self.counts[label]
        for key, image, label in zip(_keys_of(x, labels), x, labels.tolist(), strict=True):
            if label in chosen:
                self.kept.setdefault(label, []).append((key, image.clone()))  # a view would hold its whole batch
                self.counts[label] = self.counts.get(label, 0) + 1
        if sum(map(len, self.kept.values())) > 2 * self.images:
            self._trim()

    def _trim(self) -> None:
        total = sum(self.counts.values())
        for label, own in self.kept.items():
            own.sort(key=lambda entry: entry[0])
            del own[int(SLACK * self.images * self.counts[label] / total) + SPARE :]

    def finish(self) -> Sample:
        entries = []
        for label, own in self.kept.items():
            own.sort(key=lambda entry: entry[0])
            for rank, (_, image) in enumerate(own):
                # image r of a class of c stands where a share of (r + 1/2) / c of every class has been dealt out
                entries.append(((rank + 0.5) / self.counts[label], label, rank, image))
        entries.sort(key=lambda entry: entry[:3])
        entries = entries[: self.images]
        return Sample(
            torch.stack([image for *_, image in entries]),
            np.array([label for _, label, _, _ in entries], dtype=np.int64),
            np.array([rank % 2 == 0 for _, _, rank, _ in entries]),
            self.seen,
            len(self.classes),
            self.batch_size,
        )


def _keys_of(images: Tensor, labels: np.ndarray) -> list[bytes]:
    """For each image bytes that its values and its label decide, as good as random otherwise."""
    flat = images.reshape(len(images), -1)
    part = flat[:, :: max(1, flat.shape[1] // VALUES)].to(torch.float64).numpy()
    return [
        hashlib.blake2b(values.tobytes() + label.to_bytes(8, "little"), digest_size=8).digest()
        for values, label in zip(part, labels.tolist(), strict=True)
    ]


def _class_key(label: int) -> bytes:
    return hashlib.blake2b(label.to_bytes(8, "little"), digest_size=8).digest()


@contextlib.contextmanager
def _random_states_kept(loader: Any) -> Iterator[None]:
    """Whoever shuffles later shuffles as if the loader had not been read."""
    owners = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler"))]
    found = {id(own): own for owner in owners if isinstance(own := getattr(owner, "generator", None), torch.Generator)}
    states, before = [(own, own.get_state()) for own in found.values()], random_states()
    try:
        yield
    finally:
        set_random_states(before)
        for own, state in states:
            own.set_state(state)
