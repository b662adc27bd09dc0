"""What probes see: captured features as stages, with sample images and the way to attribute them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwexplain.capture.extract import Captured
from lwexplain.capture.pooling import Pooling, StagePooling
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits
from lwexplain.data.splits import stratified_subset
from lwexplain.models.staged import StagedModel, features_of
from lwexplain.models.token_reading import TokenReading
from lwexplain.probes.base import StageData

SAMPLE_IMAGES = 12


def stages_of(
    captured: Mapping[str, Captured],
    classes: list[str],
    *,
    seed: int,
    device: str,
    memory_bytes: int,
    pooling: Pooling = "auto",
    subsampled: frozenset[str] = frozenset(),
) -> list[StageData]:
    """The stages in the order in which they run, depth 1 the first, with the features of every split."""
    labels = {split: part.labels for split, part in captured.items()}
    names = next(iter(captured.values())).stages
    return [
        StageData(
            name=name,
            depth=depth,
            features={split: part.features[name] for split, part in captured.items()},
            labels=labels,
            classes=classes,
            logits={split: part.logits[name] for split, part in captured.items() if name in part.logits},
            seed=seed,
            subsampled=subsampled,
            device=device,
            memory_bytes=memory_bytes,
            pool=StagePooling(pooling),
        )
        for depth, name in enumerate(names, start=1)
    ]


def add_sample_images(
    stages: list[StageData], model: StagedModel, data: DataSplits, seed: int, device: torch.device
) -> None:
    """Give every stage the same few val images, first one of each class, and the way from images to its output."""
    classes = len(data.val.labels.unique())
    size = min(len(data.val), max(SAMPLE_IMAGES, classes))
    positions = stratified_subset(data.val.labels, size, seed)[: 2 * SAMPLE_IMAGES]
    order = data.val.labels[positions].argsort(stable=True)
    images = data.val.subset(positions[order])
    batches = Batches(images, len(images), mean=data.mean, std=data.std, seed=seed, device=device, channels_last=True)
    x, _, _ = next(iter(batches.epoch()))
    for stage in stages:
        stage.images = x
        stage.zero_image = "the mean colour of train"  # images are normalised by the mean of train
        stage.image_labels = images.labels.numpy()
        stage.model_to_stage = _prefix(model, stage.depth)
        stage.head = model.head(stage.depth) if stage.depth in model.head_depths else None
    find_tokens(stages, model.token_reading)


def find_tokens(stages: Sequence[StageData], reading: TokenReading) -> None:
    """Let each stage's pooling know where the patches are among its tokens and what of them the network's head reads,
    as capture did, and note what it leaves out."""
    for stage in stages:
        if isinstance(stage.pool, StagePooling) and stage.model_to_stage is not None and stage.images is not None:
            stage.pool = replace(stage.pool, reading=reading).at(stage.model_to_stage, stage.images[:1])
            stage.pooled = stage.pool.note


class SampleImages:
    """Picks a few images from batches that pass by: of every class one before of any a second, SAMPLE_IMAGES or one a
    class, at most twice SAMPLE_IMAGES."""

    def __init__(self) -> None:
        self._first: dict[int, list[Tensor]] = {}

    def watching(self, batches: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """The same batches."""
        for batch in batches:
            yield batch  # checked by whoever reads it, before the next line
            if batch[0].ndim != 4 or not batch[0].is_floating_point():
                continue
            for image, label in zip(batch[0], torch.as_tensor(batch[1]).reshape(-1).tolist(), strict=True):
                kept = self._first.setdefault(label, [])
                if len(kept) < SAMPLE_IMAGES:
                    kept.append(image.detach().to("cpu", torch.float32, copy=True))

    def images_and_labels(self) -> tuple[Tensor, np.ndarray] | None:
        """(M, C, H, W) float32 and (M,) int64, sorted by class; None where no batch held such images."""
        if not self._first:
            return None
        size = min(2 * SAMPLE_IMAGES, max(SAMPLE_IMAGES, len(self._first)))
        rounds = [(turn, label) for label, kept in self._first.items() for turn in range(len(kept))]
        chosen = sorted(sorted(rounds)[:size], key=lambda item: (item[1], item[0]))
        images = torch.stack([self._first[label][turn] for turn, label in chosen])
        return images, np.array([label for _, label in chosen], dtype=np.int64)


def chance_level(labels: np.ndarray) -> float:
    """Accuracy of always guessing the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def _prefix(model: StagedModel, depth: int) -> Callable[[Tensor], Tensor]:
    return lambda images: features_of(model.run_stages(images, 0, depth))
