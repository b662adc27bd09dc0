"""Random crop, mirror and cutout of a whole batch at once.

The random numbers come from a CPU generator and are drawn for the whole batch, so that an image is changed alike on
every device and in every process that holds a part of the batch.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from lwexplain.config import AugmentConfig
from lwexplain.data.transfer import sent


@dataclass(frozen=True)
class Draws:
    """Random numbers for the ``rows`` of a batch of ``total`` images; the same ones whichever rows are asked for."""

    generator: torch.Generator
    total: int
    rows: slice = field(default_factory=lambda: slice(None))

    def integers(self, high: int) -> Tensor:
        """int64 (rows,) from 0 to ``high`` - 1, on the CPU."""
        return torch.randint(0, high, (self.total,), generator=self.generator)[self.rows]

    def coins(self) -> Tensor:
        """bool (rows,), True with probability 1/2, on the CPU."""
        return torch.rand(self.total, generator=self.generator).lt(0.5)[self.rows]


def augment_batch(x: Tensor, config: AugmentConfig, draws: Draws, fill: Tensor | None = None) -> Tensor:
    """Augmented copy of ``x`` (B, C, H, W), uint8 or float, on the device of ``x``.

    Order: pad with zeros and crop, mirror, cutout. ``fill`` (C,) is the value of blanked pixels, 0 if None.
    """
    if config.crop:
        x = random_crop(x, config.crop, draws)
    if config.flip:
        x = random_flip(x, draws)
    if config.cutout:
        x = cutout(x, config.cutout, draws, fill)
    return x


def random_crop(x: Tensor, padding: int, draws: Draws) -> Tensor:
    """Pad ``x`` (B, C, H, W) with zeros by ``padding`` pixels, then cut (H, W) out at a random place."""
    batch, _, height, width = x.shape
    corner = torch.stack([draws.integers(2 * padding + 1), draws.integers(2 * padding + 1)])
    corner = sent(corner, x.device)
    padded = F.pad(x, (padding, padding, padding, padding))
    # a view of all windows, (B, 2p+1, 2p+1, C, H, W), from which one per image is copied
    windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    return windows[torch.arange(batch, device=x.device), corner[0], corner[1]]


def random_flip(x: Tensor, draws: Draws) -> Tensor:
    """Mirror each image of ``x`` (B, C, H, W) left-right with probability 1/2."""
    flipped = sent(draws.coins(), x.device)
    return torch.where(flipped[:, None, None, None], x.flip(3), x)


def cutout(x: Tensor, side: int, draws: Draws, fill: Tensor | None = None) -> Tensor:
    """Blank a ``side`` x ``side`` square of each image of ``x`` (B, C, H, W), its centre anywhere in it.

    The square is clipped at the border, so up to three quarters of it may lie outside (DeVries and Taylor
    2017, "Improved Regularization of Convolutional Neural Networks with Cutout").
    """
    height, width = x.shape[2:]
    rows = sent(draws.integers(height)[:, None], x.device)
    columns = sent(draws.integers(width)[:, None], x.device)
    in_rows = _covered(rows, side, height)
    in_columns = _covered(columns, side, width)
    blank = (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)
    value = x.new_zeros(1) if fill is None else fill.to(x.device, x.dtype).reshape(1, -1, 1, 1)
    return torch.where(blank, value, x)


def _covered(centres: Tensor, side: int, length: int) -> Tensor:
    first = centres - side // 2
    positions = torch.arange(length, device=centres.device)
    return (positions >= first) & (positions < first + side)
