"""Local losses: what a stage (or the whole network) minimises through its head."""

from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from lwexplain.registry import Registry

LOSSES = Registry("loss", "lwexplain.training", group="lwexplain.losses", options_key="training.loss_options")
"""Factories ``(num_classes, *, label_smoothing, **options) -> LocalLoss``."""


class LocalLoss(Protocol):
    """``(logits (N, K), labels (N,), features of the stage, images (N, C, H, W)) -> scalar``."""

    def __call__(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor: ...


@LOSSES.register("cross_entropy")
class CrossEntropy:
    """Cross-entropy of the head's logits, with label smoothing."""

    def __init__(self, num_classes: int, *, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
