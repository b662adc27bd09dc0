"""What a network of each depth costs, its head included: parameters, FLOPs, memory and measured latency."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lwexplain.errors import ModelError
from lwexplain.models.activations import ActivationMeter
from lwexplain.models.heads.base import HEADS
from lwexplain.models.modules import in_evaluation
from lwexplain.models.site import Site
from lwexplain.models.staged import StagedModel
from lwexplain.probes.base import Measurement, StageData

LATENCY_SECONDS = 0.15
"""Time spent on each network."""

LATENCY_ROUNDS = (10, 200)


@dataclass(frozen=True)
class Cost:
    """``flops`` of one image (a multiplication and an addition count as two); ``memory_bytes`` that one image takes;
    ``latency_seconds`` of one image alone (batch 1): median, 5th and 95th percentile over ``runs``."""

    parameters: int
    flops: int
    memory_bytes: int
    latency_seconds: float
    latency_low: float
    latency_high: float
    runs: int


def network_of_depth(model: StagedModel, site: Site) -> StagedModel:
    """The network cut after the stage at ``site`` with its own head, or a linear one where it has none."""
    head = None
    if site.depth not in model.head_depths:
        head = HEADS.create("linear", site).to(_device_of(model))
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
        return {"stages": self.stages, "device": device, "costs": [field.name for field in fields(Cost)]}

    def measure_all(self, stages: list[StageData]) -> dict[str, list[Measurement]]:
        """Parameters, FLOPs, memory and latency by stage name, on the device where the model lies."""
        if isinstance(self.model, ModelError):
            raise self.model
        model, device = self.model, _device_of(self.model)
        sites = model.sites()[: len(self.stages)]
        costs = measure_costs([network_of_depth(model, site) for site in sites], model.input_shape)
        return {name: measurements(cost, str(device)) for name, cost in zip(self.stages, costs, strict=True)}


def measure_costs(networks: Sequence[nn.Module], input_shape: tuple[int, ...]) -> list[Cost]:
    """Costs of networks in evaluation mode for one image (C, H, W). They take turns on the clock, and are left as they
    were."""
    device = _device_of(networks[0])
    image = torch.zeros(1, *input_shape, device=device)
    costs = []
    with in_evaluation(*networks), torch.no_grad():
        seconds = _latencies([partial(network, image) for network in networks], device)
        for network, times in zip(networks, seconds, strict=True):
            with _every_operation_visible(), FlopCounterMode(display=False) as counter:
                network(image)
            low, median, high = np.quantile(times, [0.05, 0.5, 0.95])
            parameters = sum(parameter.numel() for parameter in network.parameters())
            flops, memory = counter.get_total_flops(), inference_memory(network, image)
            costs.append(Cost(parameters, flops, memory, float(median), float(low), float(high), len(times)))
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


@contextmanager
def _every_operation_visible() -> Iterator[None]:
    """Keep attention from its fused kernels, which the counter of FLOPs cannot look into."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def measurements(cost: Cost, device: str) -> list[Measurement]:
    """A cost as rows of the long table; they belong to no split."""
    timed = f"batch 1 on {device}; low and high are the 5th and 95th percentile"
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
            cost.latency_seconds,
            split="none",
            low=cost.latency_low,
            high=cost.latency_high,
            n=cost.runs,
            note=timed,
        ),
    ]


def _latencies(runs: Sequence[Callable[[], object]], device: torch.device) -> list[list[float]]:
    """Seconds of single runs after a warm-up, in rounds, so that a busy moment of the machine hits all alike."""

    def seconds_of(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for run in [*runs, *runs]:
        seconds_of(run)
    least, most = LATENCY_ROUNDS
    rounds: list[list[float]] = []
    end = time.perf_counter() + LATENCY_SECONDS * len(runs)
    while len(rounds) < least or (len(rounds) < most and time.perf_counter() < end):
        rounds.append([seconds_of(run) for run in runs])
    return [list(times) for times in zip(*rounds, strict=True)]
