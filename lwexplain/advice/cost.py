"""What a network of each depth costs, its head included: parameters, FLOPs, memory and measured latency."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lwexplain.advice.latency import Latency, measure_latencies
from lwexplain.errors import ModelError
from lwexplain.models.activations import ActivationMeter
from lwexplain.models.forward import as_parameters
from lwexplain.models.heads.base import HEADS
from lwexplain.models.layout import every_operation_visible
from lwexplain.models.modules import in_evaluation, undisturbed
from lwexplain.models.site import Site
from lwexplain.models.staged import StagedModel
from lwexplain.probes.base import Measurement, StageData


@dataclass(frozen=True)
class Cost:
    """``flops`` of one image (a multiplication and an addition count as two); ``memory_bytes`` that one image takes;
    ``latency`` of one image alone (batch 1)."""

    parameters: int
    flops: int
    memory_bytes: int
    latency: Latency


def network_of_depth(model: StagedModel, site: Site, dtype: torch.dtype) -> StagedModel:
    """The network cut after the stage at ``site`` with its own head; where it has none, a linear one that works in
    ``dtype``."""
    head = None
    if site.depth not in model.head_depths:
        head = HEADS.create("linear", site).to(_device_of(model), dtype)
    return model.truncated(site.depth, head)


class CostProbe:
    """Cost of every depth of a staged model as measurements; the model is left as it was.

    Given the error that kept a model from being cut instead of the model, it raises that error when asked, so that
    the missing costs are reported like any failed probe.
    """

    name = "cost"
    needs_quiet = True  # it reads the clock

    def __init__(self, model: StagedModel | ModelError, stages: list[str]) -> None:
        self.model = model
        self.stages = stages

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the costs, besides the weights."""
        device = None if isinstance(self.model, ModelError) else str(_device_of(self.model))
        names = [field.name for kind in (Cost, Latency) for field in fields(kind)]
        return {"stages": self.stages, "device": device, "costs": names}

    def measure_all(self, stages: list[StageData]) -> dict[str, list[Measurement]]:
        """Parameters, FLOPs, memory and latency by stage name, on the device where the model lies."""
        if isinstance(self.model, ModelError):
            raise self.model
        model, device = self.model, _device_of(self.model)
        sites = zip(model.sites()[: len(self.stages)], model.feature_dtypes(), strict=False)
        with undisturbed(model):  # heads are made from the global random state
            networks = [network_of_depth(model, site, dtype) for site, dtype in sites]
        costs = measure_costs(networks, model.input_shape)
        before = [None, *costs]
        return {
            name: measurements(cost, str(device), shallower)
            for name, cost, shallower in zip(self.stages, costs, before, strict=False)
        }


def measure_costs(networks: Sequence[nn.Module], input_shape: tuple[int, ...]) -> list[Cost]:
    """Costs of networks in evaluation mode for one image (C, H, W). They take turns on the clock, and are left as they
    were."""
    device = _device_of(networks[0])
    blank = torch.zeros(1, *input_shape, device=device)
    costs = []
    with in_evaluation(*networks), torch.no_grad():
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


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def measurements(cost: Cost, device: str, shallower: Cost | None = None) -> list[Measurement]:
    """A cost as rows of the long table; they belong to no split. ``shallower`` is the cost one stage before."""
    timed = f"batch 1 on {device}{', one thread' if device == 'cpu' else ''}; median of the quicker half of the rounds"
    timed += "; low and high are the 5th and 95th percentile"
    if shallower is not None and cost.latency.median < shallower.latency.median:
        alike = cost.latency.is_alike(shallower.latency)
        timed += (
            "; no quicker than one stage before as far as the clock can tell"
            if alike
            else ("; quicker than one stage before, whose head works on larger features or has more to do")
        )
    return [
        Measurement("parameters", cost.parameters, split="none"),
        Measurement("flops", cost.flops, split="none", note="per image, head included"),
        Measurement(
            "memory_bytes",
            cost.memory_bytes,
            split="none",
            note="of one image: weights, buffers and the largest sum of live activations",
        ),
        Measurement(
            "latency_seconds",
            cost.latency.median,
            split="none",
            low=cost.latency.low,
            high=cost.latency.high,
            n=cost.latency.runs,
            note=timed,
        ),
    ]
