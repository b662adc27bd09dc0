"""One look at a network that somebody else trained: a pass over each loader, and all that is to be kept of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lwexplain.adoption.fingerprints import SplitFingerprint
from lwexplain.adoption.own_output import settle_own_output
from lwexplain.adoption.pictures import Pictures
from lwexplain.adoption.sample_images import SampleImages, Samples
from lwexplain.capture.extract import Captured, extract
from lwexplain.capture.pooling import Pooling
from lwexplain.data.batch_form import BatchForm
from lwexplain.data.given_batches import checked_batches
from lwexplain.errors import CaptureError
from lwexplain.models.layout import Layout
from lwexplain.results import SPLITS

MANY = 10_000
"""Classes from which on at least half must be there: measures keep numbers for every class, present or not."""


@dataclass
class Seen:
    """What one pass over the loaders of a network saw.

    ``captured`` holds features, labels and the network's own logits by split, ``classes`` their names, ``shape`` that
    of one input. ``samples`` are a few val images, None where inputs are no images; ``thumbnails`` uint8 (N, H, W, C)
    are those of all val images where they were asked for. ``contents`` and ``order`` identify the samples of each split
    (see ``SplitFingerprint``), ``layouts`` says how the output of each stage lay, ``were_pixels`` whether
    images came as uint8.
    """

    captured: dict[str, Captured]
    classes: list[str]
    shape: tuple[int, ...]
    notes: list[str] = field(default_factory=list)
    samples: Samples | None = None
    thumbnails: np.ndarray | None = None
    contents: dict[str, str] = field(default_factory=dict)
    order: dict[str, str] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    were_pixels: bool = False

    @property
    def stages(self) -> list[str]:
        """Names of the stages in the order in which they run; a module called several times gives several."""
        return self.captured["val"].stages


class Watcher:
    """Notes what is to be known of the batches of a split while they pass by."""

    def __init__(self, split: str, pictures: Pictures | None = None, *, identify: bool = False) -> None:
        self.samples = SampleImages() if split == "val" else None
        self.pictures = pictures if split == "val" else None
        self.fingerprint = SplitFingerprint() if identify else None

    def watching(self, batches: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """The same batches, which are checked."""
        for batch in batches:
            yield batch
            images, labels = batch[0], batch[1]
            if self.samples is not None:
                self.samples.see(images, labels)
            if self.pictures is not None:
                self.pictures.see(images)
            if self.fingerprint is not None:
                self.fingerprint.see(images, labels)


def look(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Any]],
    stages: Sequence[str],
    *,
    folder: Path,
    classes: Sequence[str] | None = None,
    form: BatchForm | None = None,
    pooling: Pooling = "mean",
    device: torch.device,
    pictures: Pictures | None = None,
    identify: bool = False,
    final_norm: bool = False,
) -> Seen:
    """One pass over each of ``loaders`` (by split, as ``check_loaders`` lets them pass) through ``model``.

    Features are captured at ``stages`` into ``folder`` and returned memory-mapped. ``pictures`` gathers small pictures
    of val; with ``identify`` samples are counted into fingerprints, with ``final_norm`` stages pass through the
    network's own final normalisation. The model is left as it was. Raises CaptureError
    as ``checked_batches`` and ``extract`` do, and for labels that do not fit the classes.
    """
    given = {split: checked_batches(batches, split, model, form) for split, batches in loaders.items()}
    watchers = {split: Watcher(split, pictures, identify=identify) for split in loaders}
    captured = {
        split: extract(
            model,
            watchers[split].watching(given[split]),
            stages,
            pooling=pooling,
            device=device,
            store=Path(folder, split),
            own_output=True,
            final_norm=final_norm,
        )
        for split in SPLITS
        if split in loaders
    }
    shape = given["val"].shape or ()
    for split, batches in given.items():
        if batches.shape != shape:
            raise CaptureError(
                f"the images of {split!r} have the shape {batches.shape}, those of 'val' {shape}; resize all to one"
            )
    names = class_names([part.labels for part in captured.values()], classes)
    names, notes = settle_own_output(captured, names)
    notes += dict.fromkeys(note for batches in given.values() for note in batches.notes)
    layouts = captured["val"].layouts
    notes += [f"stage {name}: {layout.note}" for name, layout in layouts.items() if layout.note]
    if (norm := captured["val"].final_norm) is not None:
        notes.append(f"features after the network's own final normalisation, {norm[0]} ({type(norm[1]).__name__})")
    prints = {split: watcher.fingerprint for split, watcher in watchers.items() if watcher.fingerprint}
    samples = watchers["val"].samples
    assert samples is not None
    return Seen(
        captured,
        names,
        shape,
        notes,
        samples.chosen(),
        pictures.all() if pictures else None,
        {split: found.contents for split, found in prints.items()},
        {split: found.order for split, found in prints.items()},
        {} if callable(pooling) else layouts,
        given["val"].were_pixels,
    )


def class_names(labels: Sequence[np.ndarray], classes: Sequence[str] | None) -> list[str]:
    """The names of all classes, by default their numbers; raises CaptureError where the labels do not fit."""
    highest = max(int(part.max()) for part in labels)
    if classes is not None:
        if len(classes) <= highest:
            raise CaptureError(f"labels go up to {highest}, but only {len(classes)} classes are named")
        return list(classes)
    different = len(np.unique(np.concatenate([np.unique(part) for part in labels])))
    if highest >= MANY and 2 * different <= highest:
        raise CaptureError(
            f"labels must be 0 to K - 1 for K classes; found {different:,} different ones up to {highest:,}. Number "
            "them anew, for example by numpy.unique(labels, return_inverse=True), or pass classes with a name for each"
        )
    return [str(label) for label in range(highest + 1)]
