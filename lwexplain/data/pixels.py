"""Images as pixels for a person to look at."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lwexplain.data.dataset import Images

THUMBNAIL = 64

NEARLY = 1e-3
"""How far images of [0, 1] may be out of it, by the rounding of whatever resized them."""


def thumbnails(images: Images, positions: Tensor) -> np.ndarray:
    """uint8 (N, H, W, C) of the images at ``positions``, at most THUMBNAIL pixels high and wide."""
    blocks = []
    for chunk in positions.split(1024):
        blocks.append(small(images.gather(chunk)).permute(0, 2, 3, 1).contiguous())
    return torch.cat(blocks).numpy()


def small(pixels: Tensor) -> Tensor:
    """uint8 (N, C, H, W) at most THUMBNAIL pixels high and wide."""
    longest = max(pixels.shape[-2:])
    if longest <= THUMBNAIL:
        return pixels
    size = [max(1, round(side * THUMBNAIL / longest)) for side in pixels.shape[-2:]]
    shrunk = F.interpolate(pixels.float(), size=size, mode="bilinear", antialias=True)
    return shrunk.round().clamp(0, 255).to(torch.uint8)


def to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Images (M, C, H, W) normalised by ``mean`` and ``std``, one value for each channel or for all, back to uint8
    (M, H, W, C)."""
    floats = images.detach().to("cpu", torch.float32)
    pixels = floats * torch.tensor(std).reshape(1, -1, 1, 1) + torch.tensor(mean).reshape(1, -1, 1, 1)
    return pixels.mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def colours_to_show(images: Tensor) -> tuple[list[float], list[float], str]:
    """The mean and standard deviation to show images (M, C, H, W) by that nobody has said them of, and a note.

    Values in [0, 1] are shown as they are, and others stretched over their range, which the note says.
    """
    low, high = float(images.min()), float(images.max())
    if low >= -NEARLY and high <= 1 + NEARLY:
        return [0.0], [1.0], ""
    reach = max(high - low, 1e-12)
    note = f"colours are not true: values from {low:.2g} to {high:.2g} were stretched; pass mean and std of the images"
    return [-low / reach], [1 / reach], note
