"""Insertion and deletion: do the pixels that a map ranks first matter most to the network? (Petsiuk et al. 2018)"""

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.attribution.base import Network
from lwexplain.probes.attribution.memory import Chunker

CURVE_STEPS = 10
"""How many equal shares of the pixels are put in or taken out, one after another."""

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


class Curves:
    """The curves of some images: probability (softmax) of the target over the share of pixels inserted, from 0 to 1 in
    equal steps, on the zero image. Areas (N,) lie in [0, 1], by trapezoids.

    ``images`` (N, C, H, W), ``targets`` (N,). The ends of the curves, which are the same for every order, are computed
    once.
    """

    def __init__(
        self, network: Network, images: Tensor, targets: Tensor, chunker: Chunker, steps: int = CURVE_STEPS
    ) -> None:
        self.network, self.images, self.targets, self.chunker, self.steps = network, images, targets, chunker, steps
        every = np.tile(np.arange(images.shape[-2] * images.shape[-1]), (len(images), 1))
        self.ends = self._probabilities(every, [0, every.shape[1]])

    def insertion_areas(self, ranks: np.ndarray) -> np.ndarray:
        """Areas as pixels are inserted in the order of ``ranks`` (N, H*W)."""
        counts = np.linspace(0, ranks.shape[1], self.steps + 1).round().astype(int)[1:-1]
        inner = self._probabilities(ranks, counts.tolist())
        curve = torch.cat([self.ends[:, :1], inner, self.ends[:, 1:]], dim=1)
        return torch.trapezoid(curve, dx=1 / self.steps, dim=1).numpy()

    def deletion_areas(self, ranks: np.ndarray) -> np.ndarray:
        """Areas as pixels are set to zero in the order of ``ranks``: to delete in one order is to insert in the reverse
        one, read backwards."""
        return self.insertion_areas(ranks.shape[1] - 1 - ranks)

    def random_areas(self, seed: int, orders: int = RANDOM_ORDERS) -> np.ndarray:
        """Mean area over random orders and their reverses, which is that of insertion and of deletion alike."""
        pixels = self.images.shape[-2] * self.images.shape[-1]
        drawn = random_orders(orders, pixels, seed)
        return np.mean([self.insertion_areas(np.tile(ranks, (len(self.images), 1))) for ranks in drawn], axis=0)

    def _probabilities(self, ranks: np.ndarray, counts: list[int]) -> Tensor:
        """Probability of the target with the first ``counts`` pixels inserted: (N, len(counts)) float64 on the CPU."""
        device = self.images.device
        rank = torch.from_numpy(ranks).to(device).view(len(ranks), 1, *self.images.shape[-2:])
        kept = torch.tensor(counts, device=device).repeat(len(ranks))

        def probability(row: Tensor) -> Tensor:
            image = row // len(counts)
            inserted = self.images[image] * (rank[image] < kept[row, None, None, None])
            return self.network(inserted).softmax(1).gather(1, self.targets[image][:, None])[:, 0]

        with torch.no_grad():
            found = self.chunker.run(probability, torch.arange(len(kept), device=device))
        return torch.cat(found).double().cpu().view(len(ranks), len(counts))


def _ranks(order: np.ndarray) -> np.ndarray:
    """The inverse of each row's permutation."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return ranks
