"""What a network of each depth costs, its head included: parameters, FLOPs, memory and measured latency."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lwexplain.models.activations import ActivationMeter
from lwexplain.models.heads.base import HEADS
from lwexplain.models.latency import Latency, measure_latencies
from lwexplain.models.layout import every_operation_visible
from lwexplain.models.modules import as_parameters, in_evaluation, without_gradients
from lwexplain.models.site import Site


@dataclass(frozen=True)
class Cost:
    """``flops`` of one image (a multiplication and an addition count as two); ``memory_bytes`` that one image takes;
    ``latency`` of one image alone (batch 1)."""

    parameters: int
    flops: int
    memory_bytes: int
    latency: Latency


class CutAtStages(Protocol):
    """A network that can be had cut after each of its stages: a StagedModel or a CutNetwork."""

    names: list[str]
    input_shape: tuple[int, ...]

    @property
    def device(self) -> torch.device: ...

    def sites(self) -> list[Site]: ...

    def feature_dtypes(self) -> list[torch.dtype]: ...

    def classifies(self, depth: int) -> bool: ...

    def truncated(self, stage: int | str, head: nn.Module | None = None) -> nn.Module: ...


def network_of_depth(model: CutAtStages, site: Site, dtype: torch.dtype) -> nn.Module:
    """The network cut after the stage at ``site`` with its own head; where it has none, a linear one that works in
    ``dtype``."""
    head = None
    if not model.classifies(site.depth):
        head = HEADS.create("linear", site).to(model.device, dtype)
    return model.truncated(site.depth, head)


def measure_costs(networks: Sequence[nn.Module], input_shape: tuple[int, ...]) -> list[Cost]:
    """Costs of networks in evaluation mode for one image (C, H, W). They take turns on the clock, and are left as they
    were."""
    device = device_of(networks[0])
    blank = torch.zeros(1, *input_shape, device=device)
    costs = []
    with in_evaluation(*networks), torch.no_grad():
        for network in networks:
            without_gradients(network)
        images = [as_parameters(blank, network) for network in networks]
        runs = [partial(network, image) for network, image in zip(networks, images, strict=True)]
        for network, image, latency in zip(networks, images, measure_latencies(runs, device), strict=True):
            with every_operation_visible(), FlopCounterMode(display=False) as counter:
                network(image)
            parameters = sum(parameter.numel() for parameter in network.parameters())
            flops, memory = counter.get_total_flops(), inference_memory(network, image)
            costs.append(Cost(parameters, flops, memory, latency))
    return costs


def inference_memory(network: nn.Module, images: torch.Tensor) -> int:
    """Bytes that a forward pass without gradients takes: weights, buffers and the largest sum of live activations.

    An activation lives from the operation that makes it until nothing needs it any more, as ``ActivationMeter`` counts
    it; the images themselves and what an operation uses inside itself are not in it. The number is the same every time.
    """
    with torch.no_grad(), ActivationMeter() as meter:
        network(images)
    held = [*network.parameters(), *network.buffers()]  # a tensor that two layers share comes once
    return sum(tensor.nbytes for tensor in held) + meter.peak_bytes


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a module lie; the CPU for one without."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
