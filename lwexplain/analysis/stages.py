"""What probes see: captured features as stages, with sample images and the way to attribute them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lwexplain.adoption.sample_images import SAMPLE_IMAGES
from lwexplain.capture.extract import Captured
from lwexplain.capture.pooling import Pooling, StagePooling
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits
from lwexplain.data.splits import stratified_subset
from lwexplain.models.staged import StagedModel, features_of
from lwexplain.models.token_reading import TokenReading
from lwexplain.probes.base import StageData


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


def chance_level(labels: np.ndarray) -> float:
    """Accuracy of always guessing the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def _prefix(model: StagedModel, depth: int) -> Callable[[Tensor], Tensor]:
    return lambda images: features_of(model.run_stages(images, 0, depth))
