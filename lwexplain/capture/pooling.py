"""From the raw output of a stage to one row of features for each sample."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from lwexplain.arguments import POOLINGS, shown, user_code
from lwexplain.errors import CaptureError
from lwexplain.models.tokens import TokenGrid, UnknownGrid, token_grid
from lwexplain.registry import nearest

Pooling = str | Callable[[torch.Tensor], torch.Tensor]

PYRAMID = (1, 2, 4)
"""Bins along each side at the levels of the spatial pyramid."""


def pool(output: torch.Tensor, pooling: Pooling = "mean", grid: TokenGrid | None = None) -> torch.Tensor:
    """Pool a raw stage output to (N, D) float32, in new memory, differentiably.

    ``mean`` and ``max`` go over space for (N, C, H, W) and over tokens for (N, T, D), where ``grid`` is known over
    those of the patches, without class and register tokens; (N, D) stays as it is. ``flatten`` keeps every value.
    ``pyramid`` puts the means over 1, 2 x 2 and 4 x 4 bins of (N, C, H, W) side by side (spatial pyramid, Lazebnik et
    al. 2006), levels with more bins than pixels left out; tokens are laid out on their grid before. A callable maps the
    float32 output to (N, D) itself; it is the way for channels-last outputs (N, H, W, C), which no shape tells from
    (N, C, H, W).

    Raises CaptureError for an unknown pooling, or for a shape the pooling has no rule for.
    """
    output = output.float()
    if callable(pooling):
        with user_code(f"the pooling, given {shown(output)},"):
            pooled = pooling(output)
    elif pooling == "flatten" and output.ndim >= 2:
        pooled = output.flatten(1)
    elif pooling not in POOLINGS:
        raise CaptureError(f"unknown pooling {pooling!r}; {nearest(str(pooling), list(POOLINGS))}")
    elif output.ndim == 2:
        pooled = output
    elif output.ndim in (3, 4):
        if output.ndim == 3 and grid is not None and grid.count == output.shape[1]:
            output = grid.to_grid(output) if pooling == "pyramid" else grid.patch_tokens(output)
        if pooling == "pyramid":
            return _pyramid(output)
        axes = (1,) if output.ndim == 3 else (2, 3)
        pooled = output.mean(axes) if pooling == "mean" else output.amax(axes)
    else:
        raise CaptureError(
            f"no {pooling} pooling for an output of shape {tuple(output.shape)}; expected (N, D), (N, T, D) or "
            "(N, C, H, W); use pooling='flatten' or a callable"
        )
    if not isinstance(pooled, torch.Tensor) or pooled.ndim != 2:
        shape = tuple(pooled.shape) if isinstance(pooled, torch.Tensor) else type(pooled).__name__
        raise CaptureError(f"pooling {shown(pooling)} gave {shape}; expected a tensor (N, D)")
    pooled = pooled.float()
    return pooled.clone() if pooled.untyped_storage().data_ptr() == output.untyped_storage().data_ptr() else pooled


@dataclass(frozen=True)
class StagePooling:
    """The pooling of one stage, raw output -> rows of features.

    ``note`` says what is left out of them, or what may be in them, where a reader must know.
    """

    pooling: Pooling = "mean"
    grid: TokenGrid | None = None
    note: str = ""

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        return pool(output, self.pooling, self.grid)

    def at(self, to_stage: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> "StagePooling":
        """The same for a stage whose tokens, if it gives some, lie over ``image`` (1, C, H, W) as a forward pass
        shows."""
        if self.pooling not in ("mean", "max", "pyramid") or image.ndim != 4:
            return self
        height, width = image.shape[-2:]
        try:
            grid = token_grid(lambda look: look(to_stage(image)), (height, width))
        except UnknownGrid as reason:
            return replace(self, note=f"{self.pooling} over all tokens, whatever they stand for: {reason}")
        if grid is None or not grid.others:
            return replace(self, grid=grid)
        left_out = f"{grid.others} class or register token{'s' * (grid.others > 1)} left out"
        return replace(self, grid=grid, note=f"{self.pooling} over the {grid.patches} tokens of patches, {left_out}")


def _pyramid(output: torch.Tensor) -> torch.Tensor:
    if output.ndim != 4:
        raise CaptureError(
            f"no spatial pyramid of an output of shape {tuple(output.shape)}; expected (N, C, H, W); use pooling='mean'"
        )
    levels = [bins for bins in PYRAMID if bins == 1 or bins <= min(output.shape[2:])]
    return torch.cat([F.adaptive_avg_pool2d(output, bins).flatten(1) for bins in levels], dim=1)
