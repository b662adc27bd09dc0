"""What a head is: a module that maps a stage's features to logits (N, K)."""

import torch
from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.site import Site
from lwexplain.models.token_reading import TokenPooling
from lwexplain.registry import Registry

HEADS = Registry("head", "lwexplain.models.heads", group="lwexplain.heads", options_key="training.head_options")
"""Factories ``(site, **options) -> nn.Module``; ``site`` is a ``lwexplain.models.site.Site``."""


def pooled(features: Tensor, tokens: TokenPooling | None = None) -> Tensor:
    """Mean over positions: (N, C, H, W) -> (N, C), tokens (N, T, D) -> (N, D), (N, D) as it is.

    With ``tokens`` (``Site.tokens``) those tokens are taken that the network's own head would read.

    In training the mean is a product with ones: its backward pass writes the gradient out, where that of ``mean`` hands
    on an expanded scalar that the operation before it (a ReLU, most often) reads some ten times slower on the CPU.
    """
    if features.ndim == 4:
        if not (features.requires_grad and torch.is_grad_enabled()):
            return features.mean(dim=(2, 3))
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.matmul(rows.new_ones(1, rows.shape[1]), rows).squeeze(1) / rows.shape[1]
    if features.ndim == 3:
        return features.mean(dim=1) if tokens is None else tokens(features)
    return features


class AsMap(nn.Module):
    """Features as a map (N, C, H, W) of ``shape`` (C, H, W), for heads that are made for maps.

    Maps stay as they are. Tokens whose patches alone count for the network's own head are laid out on their grid; where
    that head reads a class token, what it reads becomes a map of one position, unless ``neighbours`` are looked at, to
    which that says nothing. Raises ModelError for features that the head ``name`` cannot take.
    """

    def __init__(self, site: Site, name: str, *, neighbours: bool = False) -> None:
        super().__init__()
        self.grid, self.tokens = site.grid, site.tokens
        self.by_grid = site.tokens is not None and not site.tokens.alone
        if len(site.shape) == 3:
            self.shape = site.shape
        elif site.grid is not None and self.by_grid:
            self.shape = (site.shape[-1], site.grid.height, site.grid.width)
        elif site.tokens is not None and not neighbours:
            self.shape = (site.channels, 1, 1)
        else:
            tokens = " of which the network's head reads a class token" if site.tokens is not None else ""
            raise ModelError(
                f"the {name} head needs features (C, H, W), found {site.shape}{tokens}; use training.head=linear"
            )

    def forward(self, features: Tensor) -> Tensor:
        if self.tokens is None or features.ndim != 3:
            return features
        if self.by_grid and self.grid is not None:
            return self.grid.to_grid(features)
        return self.tokens(features)[:, :, None, None]
