"""What a network of each depth costs: parameters, FLOPs and measured latency, its head included."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lwexplain.errors import ModelError
from lwexplain.models.heads import HEADS
from lwexplain.models.staged import StagedModel
from lwexplain.probes.base import Measurement, StageData

LATENCY_SECONDS = 0.5
LATENCY_RUNS = (10, 200)


@dataclass(frozen=True)
class Cost:
    """``flops`` of one image (a multiplication and an addition count as two); ``latency_seconds`` of one image alone
    (batch 1): median, 5th and 95th percentile over ``runs``."""

    parameters: int
    flops: int
    latency_seconds: float
    latency_low: float
    latency_high: float
    runs: int


def network_of_depth(model: StagedModel, depth: int, shape: tuple[int, ...]) -> StagedModel:
    """The network cut after ``depth`` stages with its own head, or a linear one where it has none."""
    head = None
    if depth not in model.head_depths:
        head = HEADS.create("linear", shape, model.num_classes).to(next(model.parameters()).device)
    return model.truncated(depth, head).eval()


class CostProbe:
    """Cost of every depth of a staged model as measurements; the model is left as it was.

    Given the error that kept a model from being cut instead of the model, it raises that error when asked, so that
    the missing costs are reported like any failed probe.
    """

    name = "cost"

    def __init__(self, model: StagedModel | ModelError, stages: list[str]) -> None:
        self.model = model
        self.stages = stages

    def measure_all(self, stages: list[StageData]) -> dict[str, list[Measurement]]:
        """Parameters, FLOPs and latency by stage name, on the device where the model lies."""
        if isinstance(self.model, ModelError):
            raise self.model
        model, was_training = self.model, self.model.training
        shapes = model.feature_shapes()
        device = next(model.parameters()).device
        try:
            return {
                name: measurements(measure_cost(network_of_depth(model, depth, shape), model.input_shape), str(device))
                for depth, (name, shape) in enumerate(zip(self.stages, shapes, strict=False), start=1)
            }
        finally:
            model.train(was_training)


def measure_cost(network: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Parameters, FLOPs and latency of a network for one image (C, H, W)."""
    device = next(network.parameters()).device
    image = torch.zeros(1, *input_shape, device=device)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(image)
        seconds = _latencies(lambda: network(image), device)
    low, median, high = np.quantile(seconds, [0.05, 0.5, 0.95])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops(), float(median), float(low), float(high), len(seconds))


def measurements(cost: Cost, device: str) -> list[Measurement]:
    """A cost as rows of the long table; they belong to no split."""
    timed = f"batch 1 on {device}; low and high are the 5th and 95th percentile"
    return [
        Measurement("parameters", cost.parameters, split="none"),
        Measurement("flops", cost.flops, split="none", note="per image, head included"),
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


def _latencies(run: Callable[[], object], device: torch.device) -> list[float]:
    """Seconds of single runs after a warm-up, for about LATENCY_SECONDS."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(3):
        run()
    wait()
    seconds: list[float] = []
    least, most = LATENCY_RUNS
    while len(seconds) < least or (sum(seconds) < LATENCY_SECONDS and len(seconds) < most):
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return seconds
