"""Insertion and deletion: do the pixels that a map ranks first matter most to the network? (Petsiuk et al. 2018)"""

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.attribution.base import Network
from lwexplain.probes.attribution.memory import Chunker

CURVE_STEPS = 10  # equal shares of the pixels
RANDOM_ORDERS = 2


def order_of(maps: np.ndarray, seed: int) -> np.ndarray:
    """Rank of every pixel, 0 for the largest value: maps (N, H, W) -> (N, H*W); ties in random order."""
    flat = maps.reshape(len(maps), -1)
    shuffled = np.random.default_rng(seed).permutation(flat.shape[1])
    order = shuffled[np.argsort(-flat[:, shuffled], axis=1, kind="stable")]
    return _ranks(order)


def random_orders(count: int, pixels: int, seed: int) -> np.ndarray:
    """``count`` random rankings and the reverse of each: (2 count, pixels)."""
    rng = np.random.default_rng([seed, 1])
    ranks = np.stack([rng.permutation(pixels) for _ in range(count)])
    return np.concatenate([ranks, pixels - 1 - ranks])


def insertion_areas(
    network: Network, images: Tensor, targets: Tensor, ranks: np.ndarray, chunker: Chunker, steps: int = CURVE_STEPS
) -> np.ndarray:
    """Area under the insertion curve per image: (N,) in [0, 1].

    The curve is the probability (softmax) of the target as pixels are put onto the zero image in the order of
    ``ranks`` (N, H*W), over the share of pixels from 0 to 1 in ``steps`` equal steps; the area by trapezoids.
    """
    n, pixels = ranks.shape
    rank = torch.from_numpy(ranks).to(images.device).view(n, 1, *images.shape[-2:])
    counts = torch.linspace(0, pixels, steps + 1).round().long()
    rows = torch.arange(n * (steps + 1), device=images.device)
    counts = counts.to(images.device).repeat(n)

    def probability(row: Tensor) -> Tensor:
        image = row // (steps + 1)
        inserted = images[image] * (rank[image] < counts[row, None, None, None])
        return network(inserted).softmax(1).gather(1, targets[image][:, None])[:, 0]

    with torch.no_grad():
        curve = torch.cat(chunker.run(probability, rows)).double().cpu().view(n, steps + 1)
    return torch.trapezoid(curve, dx=1 / steps, dim=1).numpy()


def deletion_areas(
    network: Network, images: Tensor, targets: Tensor, ranks: np.ndarray, chunker: Chunker, steps: int = CURVE_STEPS
) -> np.ndarray:
    """Area under the deletion curve per image: pixels set to zero in the order of ``ranks``.

    To delete in one order is to insert in the reverse one, read backwards; the areas are the same.
    """
    return insertion_areas(network, images, targets, ranks.shape[1] - 1 - ranks, chunker, steps)


def random_areas(
    network: Network,
    images: Tensor,
    targets: Tensor,
    chunker: Chunker,
    seed: int,
    *,
    orders: int = RANDOM_ORDERS,
    steps: int = CURVE_STEPS,
) -> np.ndarray:
    """Mean area (N,) over random orders and their reverses, which is that of insertion and of deletion alike."""
    pixels = images.shape[-2] * images.shape[-1]
    areas = [
        insertion_areas(network, images, targets, np.tile(ranks, (len(images), 1)), chunker, steps)
        for ranks in random_orders(orders, pixels, seed)
    ]
    return np.mean(areas, axis=0)


def _ranks(order: np.ndarray) -> np.ndarray:
    """The inverse of each row's permutation."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return ranks
