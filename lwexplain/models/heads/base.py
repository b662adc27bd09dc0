"""What a head is: a module that maps a stage's features to logits (N, K)."""

from torch import Tensor

from lwexplain.registry import Registry

HEADS = Registry("head", "lwexplain.models.heads", group="lwexplain.heads", options_key="training.head_options")
"""Factories ``(site, **options) -> nn.Module``; ``site`` is a ``lwexplain.models.site.Site``."""


def pooled(features: Tensor) -> Tensor:
    """Mean over positions: (N, C, H, W) -> (N, C), tokens (N, T, D) -> (N, D), (N, D) as it is."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.ndim == 3 else features
