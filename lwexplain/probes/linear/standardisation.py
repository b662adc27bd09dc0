"""Features at mean 0 and variance 1, in float32 without losing digits to a large offset."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.moments import ClassMoments

CONSTANT = 1e-7
"""A standard deviation below this share of the mean is rounding of a constant."""

SMALLEST = 1e-30


@dataclass(frozen=True)
class Standardisation:
    """``(x - mean) * scale`` with ``mean`` and ``scale`` (D,) float64, for features on ``device``.

    The scale of a constant feature is 0.
    """

    mean: Tensor
    scale: Tensor
    device: torch.device

    @classmethod
    def of(cls, moments: ClassMoments, device: str | torch.device) -> "Standardisation":
        """The one that brings the samples behind ``moments`` to mean 0 and variance 1."""
        std = (moments.total.diagonal() / moments.n).sqrt()
        varies = std > (CONSTANT * moments.mean.abs()).clamp(min=SMALLEST)
        return cls(moments.mean, torch.where(varies, 1 / std, 0.0), torch.device(device))

    def __call__(self, block: np.ndarray) -> Tensor:
        """Features (n, D) float32, standardised, on ``device``; on the CPU ``block`` itself is overwritten."""
        near = self.mean.float()  # the difference from it is exact where an offset is large
        rest = (self.mean - near.double()).float()
        x = torch.from_numpy(block).to(self.device)
        return x.sub_(near.to(self.device)).sub_(rest.to(self.device)).mul_(self.scale.float().to(self.device))
