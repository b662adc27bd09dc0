"""The stages of somebody's network as probes see them, and what is measured of the network itself."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lwexplain.adoption.sample_images import Samples
from lwexplain.analysis.stages import find_tokens
from lwexplain.capture.hooks import output_of
from lwexplain.capture.pooling import StagePooling
from lwexplain.errors import ModelError
from lwexplain.models.cutting import CutNetwork, cut_network
from lwexplain.models.final_norm import normalised
from lwexplain.models.layout import Layout
from lwexplain.models.token_reading import TokenReading
from lwexplain.probes.base import StageData
from lwexplain.probes.cost import CostProbe
from lwexplain.probes.receptive_field import ReceptiveFieldProbe

IMAGES = 4
"""On how many images a cut must give what the network gives."""


def add_samples(
    stages: list[StageData],
    network: nn.Module,
    samples: Samples | None,
    layouts: Mapping[str, Layout],
    reading: TokenReading,
    device: torch.device,
    zero_image: str = "",
    norm: nn.Module | None = None,
) -> None:
    """Give every stage the same few val images and the way from images to its output; it has no head of its own.
    ``norm`` is the final normalisation that its features have passed through."""
    if samples is None:
        return
    for stage in stages:
        if norm is not None and isinstance(stage.pool, StagePooling):
            through = partial(_through, norm, layouts.get(stage.name, Layout()), stage.name)
            stage.pool = replace(stage.pool, norm=through)
        stage.images, stage.image_labels, stage.zero_image = samples.images.to(device), samples.labels, zero_image
        stage.model_to_stage = partial(output_of, network, stage.name, device=device, layout=layouts.get(stage.name))
    find_tokens(stages, reading)


def _through(norm: nn.Module, layout: Layout, stage: str, output: Tensor) -> Tensor:
    """An output in order through the final normalisation, which sees it as the network gives it."""
    return layout.in_order(normalised(norm, layout.as_given(output), stage))


def cut_at(
    network: nn.Module, stages: list[StageData], shape: tuple[int, ...], samples: Samples | None
) -> CutNetwork | ModelError:
    """The network cut at ``stages``, proven on a few images, or the ModelError that says why it cannot be cut."""
    names = [stage.name for stage in stages]
    try:
        return cut_network(network, names, _images(shape, samples), len(stages[0].classes))
    except ModelError as error:
        return error


def probes_of_network(
    network: nn.Module, cut: CutNetwork | ModelError, stages: list[StageData], shape: tuple[int, ...]
) -> list[Any]:
    """What measures the cost of each depth and its receptive field."""
    names = [stage.name for stage in stages]
    return [CostProbe(cut, names), ReceptiveFieldProbe(network, names, shape)]


def give_own_head(stages: list[StageData], cut: CutNetwork | ModelError) -> None:
    """The rest of the network becomes the head of the last stage, where its logits count and it can be cut off."""
    if stages[-1].logits and isinstance(cut, CutNetwork) and cut.depth in cut.head_depths:
        stages[-1].head = cut.head(cut.depth)


def _images(shape: tuple[int, ...], samples: Samples | None) -> Tensor:
    if samples is not None:
        return samples.images[:IMAGES]
    return torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0))
