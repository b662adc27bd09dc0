"""What the shorter and the full network reach and cost, measured alike on the same images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lwexplain.data.batches import Batches
from lwexplain.data.dataset import Images
from lwexplain.models.cost import Cost
from lwexplain.probes.accuracy import wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """Share of ``n`` test images that are classified rightly, in [0, 1], with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, right: int, n: int) -> "Accuracy":
        return cls(right / n, *wilson_interval(right / n, n), n)


@dataclass(frozen=True)
class NetworkFigures:
    """One network with its head: ``flops`` of one image (a multiplication and an addition count as two), latencies in
    seconds at batch 1 of the network in PyTorch, as ``advice.latency`` measures them."""

    stage: str
    depth: int
    head: str
    test_accuracy: Accuracy
    parameters: int
    flops: int
    latency_median: float
    latency_p95: float

    @classmethod
    def of(cls, stage: str, depth: int, head: str, accuracy: Accuracy, cost: Cost) -> "NetworkFigures":
        return cls(stage, depth, head, accuracy, cost.parameters, cost.flops, cost.latency.median, cost.latency.high)


def pixel_batches(images: Images, batch_size: int, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Images float32 (B, C, H, W) with pixel values in [0, 1] and labels (B,), on the CPU, in the split's order."""
    channels = images.shape[0]
    batches = Batches(images, batch_size, mean=[0.0] * channels, std=[1.0] * channels, seed=0, workers=workers)
    for x, y, _ in batches:
        yield x, y


def eager_logits(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Logits on the CPU of a network that lies on ``device``."""
    with torch.no_grad():
        logits: Tensor = network(images.to(device))
    return logits.cpu()


def count_right(logits: Tensor, labels: Tensor) -> int:
    """How many of the rows of ``logits`` (N, K) are largest at their label."""
    return int((logits.argmax(1) == labels).sum())
