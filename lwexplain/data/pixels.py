"""Images as pixels for a person to look at."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lwexplain.data.dataset import DataSplits, Images

THUMBNAIL = 64


def thumbnails(images: Images, positions: Tensor) -> np.ndarray:
    """uint8 (N, H, W, C) of the images at ``positions``, at most THUMBNAIL pixels high and wide."""
    blocks = []
    for chunk in positions.split(1024):
        pixels = images.gather(chunk)
        longest = max(pixels.shape[-2:])
        if longest > THUMBNAIL:
            size = [max(1, round(side * THUMBNAIL / longest)) for side in pixels.shape[-2:]]
            pixels = F.interpolate(pixels.float(), size=size, mode="bilinear", antialias=True)
            pixels = pixels.round().clamp(0, 255).to(torch.uint8)
        blocks.append(pixels.permute(0, 2, 3, 1).contiguous())
    return torch.cat(blocks).numpy()


def to_pixels(images: Tensor, data: DataSplits) -> np.ndarray:
    """Images normalised by the mean and std of ``data`` back to uint8 (M, H, W, C)."""
    mean = torch.tensor(data.mean).reshape(1, -1, 1, 1)
    std = torch.tensor(data.std).reshape(1, -1, 1, 1)
    pixels = (images.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()
