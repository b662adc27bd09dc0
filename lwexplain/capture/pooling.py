"""From the raw output of a stage to one row of features for each sample."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from lwexplain.arguments import POOLINGS, shown, user_code
from lwexplain.errors import CaptureError
from lwexplain.models.token_reading import UNKNOWN, TokenPooling, TokenReading
from lwexplain.models.tokens import TokenGrid, UnknownGrid, token_grid
from lwexplain.registry import nearest

Pooling = str | Callable[[torch.Tensor], torch.Tensor]

PYRAMID = (1, 2, 4)
"""Bins along each side at the levels of the spatial pyramid."""


WITH_CLASS_TOKEN = ("cls", "cls+mean")


def pool(
    output: torch.Tensor, pooling: Pooling = "mean", grid: TokenGrid | None = None, reading: TokenReading = UNKNOWN
) -> torch.Tensor:
    """Pool a raw stage output to (N, D) float32, in new memory, differentiably.

    ``mean`` and ``max`` go over space for (N, C, H, W) and over tokens for (N, T, D), where ``grid`` is known over
    those of the patches, without class and register tokens; (N, D) stays as it is. ``auto`` is the mean of maps, and of
    tokens what the network's own head reads (``reading``). ``cls`` takes the class token, or the tokens beside the
    patches that the head reads, side by side; ``cls+mean`` puts the mean of the patches behind it. ``flatten`` keeps
    every value. ``pyramid`` puts the means over 1, 2 x 2 and 4 x 4 bins of (N, C, H, W) side by side (spatial pyramid,
    Lazebnik et al. 2006), levels with more bins than pixels left out; tokens are laid out on their grid before. A
    callable maps the float32 output to (N, D) itself; it is the way for channels-last outputs (N, H, W, C), which no
    shape tells from (N, C, H, W).

    Raises CaptureError for an unknown pooling, for a shape the pooling has no rule for, and where there is no class
    token to take.
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
        if output.ndim == 3 and grid is not None and grid.count != output.shape[1]:
            grid = None
        if pooling in WITH_CLASS_TOKEN:
            pooled = _class_token_pooling(output, pooling, grid, reading)(output)
        elif pooling == "auto" and output.ndim == 3 and grid is not None:
            pooled = reading.pooling(grid)(output)
        else:
            if output.ndim == 3 and grid is not None:
                output = grid.to_grid(output) if pooling == "pyramid" else grid.patch_tokens(output)
            if pooling == "pyramid":
                return _pyramid(output)
            axes = (1,) if output.ndim == 3 else (2, 3)
            pooled = output.amax(axes) if pooling == "max" else output.mean(axes)
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

    ``reading`` is what the network's own head reads of tokens. ``note`` says how they were pooled, what is left out, or
    what may be in the rows, where a reader must know. ``norm`` is what outputs pass through before.
    """

    pooling: Pooling = "mean"
    grid: TokenGrid | None = None
    note: str = ""
    reading: TokenReading = UNKNOWN
    norm: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        if self.norm is not None:
            output = self.norm(output)
        return pool(output, self.pooling, self.grid, self.reading)

    def at(self, to_stage: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> "StagePooling":
        """The same for a stage whose tokens, if it gives some, lie over ``image`` (1, C, H, W) as a forward pass
        shows."""
        if callable(self.pooling) or self.pooling == "flatten" or image.ndim != 4:
            return self
        height, width = image.shape[-2:]
        try:
            grid = token_grid(lambda look: look(to_stage(image)), (height, width))
        except UnknownGrid as reason:
            how = "mean" if self.pooling == "auto" else self.pooling
            return replace(self, note=f"{how} over all tokens, whatever they stand for: {reason}")
        if grid is None or not grid.others:
            return replace(self, grid=grid)
        return replace(self, grid=grid, note=self.what_is_read(grid))

    def what_is_read(self, grid: TokenGrid) -> str:
        """In words, of tokens that are not all patches."""
        if self.pooling in WITH_CLASS_TOKEN:
            alone, patches = len(self.reading.class_tokens(grid)), self.pooling == "cls+mean"
            own = self.reading.fits(grid) and bool(self.reading.others)
            why = "" if own else ", the first of those that are no patches"
        elif self.pooling == "auto":
            found = self.reading.pooling(grid)
            alone, patches, own = len(found.alone), bool(found.patches), self.reading.fits(grid)
            why = ", as the network's head reads " if own else ", for what the network's head reads is not known"
            why += ("it" if alone == 1 and not patches else "them") * own
        else:
            alone, patches, why = 0, True, ""
        tokens = ["class token" if alone == 1 else f"{alone} class tokens side by side"] if alone else []
        how = "mean" if self.pooling not in ("max", "pyramid") else self.pooling
        tokens += [f"{how} over the {grid.patches} tokens of patches"] if patches else []
        rest = grid.others - alone
        kind = "class token" if grid.others == 1 else "class or register token" if not alone else "register token"
        left_out = f", {rest} {kind}{'s' * (rest > 1)} left out" if rest else ""
        return f"{' and '.join(tokens)}{left_out}{why}"


def _class_token_pooling(
    output: torch.Tensor, pooling: Pooling, grid: TokenGrid | None, reading: TokenReading
) -> TokenPooling:
    """The places of what ``cls`` or ``cls+mean`` takes; raises CaptureError where there is no class token."""
    shape = f"(N, {', '.join(map(str, output.shape[1:]))})"
    if output.ndim == 4:
        found = f"maps {shape}, which have no class token"
    elif grid is None:
        found = f"tokens {shape}, of which nothing says for certain where a class token is"
    elif not grid.others:
        found = f"tokens {shape} that are all patches of the image; there is no class token among them"
    else:
        return TokenPooling(reading.class_tokens(grid), grid.start, grid.patches if pooling == "cls+mean" else 0)
    raise CaptureError(
        f"pooling {pooling!r} was asked of a stage that gives {found}; use pooling='auto', which takes the class token "
        "where the network's head reads one, and the mean elsewhere"
    )


def _pyramid(output: torch.Tensor) -> torch.Tensor:
    if output.ndim != 4:
        raise CaptureError(
            f"no spatial pyramid of an output of shape {tuple(output.shape)}; expected (N, C, H, W); use pooling='mean'"
        )
    levels = [bins for bins in PYRAMID if bins == 1 or bins <= min(output.shape[2:])]
    return torch.cat([F.adaptive_avg_pool2d(output, bins).flatten(1) for bins in levels], dim=1)
