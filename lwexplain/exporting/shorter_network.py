"""The shorter network: normalisation, the first stages and one head, from pixel values to logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lwexplain.models.cutting import CutNetwork
from lwexplain.models.cutting.shared_copy import copy_module
from lwexplain.models.staged import StagedModel


class Normalisation(nn.Module):
    """Images (N, C, H, W) with pixel values in [0, 1] at the mean and standard deviation the network was trained at."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


@dataclass(frozen=True)
class StageHead:
    """A head after the stage at ``depth``: ``local`` was trained with the run, ``fresh`` was fitted on its features.

    ``note`` says how a fresh one was chosen.
    """

    depth: int
    module: nn.Module
    kind: str
    note: str = ""


class ShorterNetwork(nn.Module):
    """Images float32 (N, C, H, W) in [0, 1] -> logits (N, K) of ``head`` on the stages of ``model`` up to it.

    Shares the modules of ``model`` and ``head``.
    """

    def __init__(self, model: StagedModel | CutNetwork, head: StageHead, normalisation: nn.Module) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.prefix = model.prefix(head.depth)
        self.head = head.module
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.prefix(self.normalisation(images)))
        return logits


def portable(network: nn.Module) -> nn.Module:
    """A copy for a file: on the CPU, float32, in the plain memory format, without gradients."""
    copied = copy_module(network).to("cpu", torch.float32)
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return copied.eval().requires_grad_(False)
