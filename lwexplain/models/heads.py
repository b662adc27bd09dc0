"""Heads: what a stage is trained through. Each maps a stage's features to logits (N, K).

Factories take the features' shape without the batch dimension: (C, H, W), tokens (T, D) or (D,).
"""

import torch
from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.options import check_whole_number
from lwexplain.registry import Registry

HEADS = Registry("head", "lwexplain.models", group="lwexplain.heads", options_key="training.head_options")


def pooled(features: Tensor) -> Tensor:
    """Mean over positions: (N, C, H, W) -> (N, C), tokens (N, T, D) -> (N, D), (N, D) as it is."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.ndim == 3 else features


@HEADS.register("linear")
class LinearHead(nn.Module):
    """Global average pool and one linear layer."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(shape[0] if len(shape) == 3 else shape[-1], num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(pooled(features))


@HEADS.register("conv")
class ConvHead(nn.Module):
    """A few 3x3 convolutions, average pool to 2x2 and one linear layer (Belilovsky et al. 2019).

    ``hidden`` convolutions of ``width`` channels (default: as many as the features, at least 64) with batch
    norm and ReLU; the first one has stride 2 where the features are 8 pixels or larger, which keeps the cost of
    the head on early, large maps near that of the stage itself.
    """

    def __init__(self, shape: tuple[int, ...], num_classes: int, *, hidden: int = 2, width: int | None = None) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ModelError(f"the conv head needs features (C, H, W), found {shape}; use training.head=linear")
        check_whole_number("training.head_options.hidden", hidden)
        if width is not None:
            check_whole_number("training.head_options.width", width)
        channels, height, size = shape[0], shape[1], min(shape[1:])
        width = width or max(64, channels)
        layers: list[nn.Module] = []
        for position in range(hidden):
            stride = 2 if position == 0 and size >= 8 else 1
            layers += [
                nn.Conv2d(channels, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(2 if min(height, size) >= 2 else 1)
        grid = 4 if min(height, size) >= 2 else 1
        self.classifier = nn.Linear(width * grid, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.convolutions(features)), 1))
