"""What a head is: a module that maps a stage's features to logits (N, K)."""

import torch
from torch import Tensor

from lwexplain.registry import Registry

HEADS = Registry("head", "lwexplain.models.heads", group="lwexplain.heads", options_key="training.head_options")
"""Factories ``(site, **options) -> nn.Module``; ``site`` is a ``lwexplain.models.site.Site``."""


def pooled(features: Tensor) -> Tensor:
    """Mean over positions: (N, C, H, W) -> (N, C), tokens (N, T, D) -> (N, D), (N, D) as it is.

    In training the mean is a product with ones: its backward pass writes the gradient out, where that of ``mean`` hands
    on an expanded scalar that the operation before it (a ReLU, most often) reads some ten times slower on the CPU.
    """
    if features.ndim == 4:
        if not (features.requires_grad and torch.is_grad_enabled()):
            return features.mean(dim=(2, 3))
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.matmul(rows.new_ones(1, rows.shape[1]), rows).squeeze(1) / rows.shape[1]
    return features.mean(dim=1) if features.ndim == 3 else features
