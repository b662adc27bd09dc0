"""Does a map depend on the weights? The model-randomisation check (Adebayo et al. 2018)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from lwexplain.probes.attribution.base import Network, Tap

MAX_CORRELATION = 0.9
"""|rank correlation| above which a method does not depend on the weights. A detector of edges has 1; maps that are
products with the image (gradient x input, integrated gradients) keep much of its shape even under random weights."""


def randomised(network: Network, seed: int) -> Network:
    """The network with the values of every weight tensor shuffled among themselves, which keeps the scale of each.

    Weights are the ``nn.Parameter`` that reach a PyTorch function while the network runs; those of the given network
    stay as they are, for the shuffled ones take their places in the call.
    """
    weights = ShuffledWeights(seed)

    def run(x: Tensor, tap: Tap | None) -> Tensor:
        with weights:
            return network(x) if tap is None else network.tapped(x, tap)

    return Network(run)


def has_weights(network: Network, image: Tensor) -> bool:
    """Whether there is anything to shuffle, found by a forward pass of ``image`` (1, C, H, W)."""
    weights = ShuffledWeights(0)
    with torch.no_grad(), weights:
        network(image.detach().clone())
    return bool(weights.shuffled)


class ShuffledWeights(TorchFunctionMode):
    """While open, PyTorch functions that are given a parameter work with a shuffled copy of it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.shuffled: dict[int, tuple[nn.Parameter, Tensor]] = {}  # by id, which holds while the parameter is kept

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        args, kwargs = tree_map_only(nn.Parameter, self._shuffle, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _shuffle(self, weight: nn.Parameter) -> Tensor:
        if id(weight) not in self.shuffled:
            order = torch.randperm(weight.numel(), generator=self.generator).to(weight.device)
            self.shuffled[id(weight)] = (weight, weight.detach().flatten()[order].view_as(weight))
        return self.shuffled[id(weight)][1]


def rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman correlation of |maps| (N, H, W) image by image: (N,) in [-1, 1].

    Over the pixels that are not zero in both maps, for those that a layer does not see make any two maps alike; 0 where
    one of the maps is constant there.
    """
    return np.array(
        [_rank_correlation(np.abs(a).ravel(), np.abs(b).ravel()) for a, b in zip(first, second, strict=True)]
    )


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    seen = (a > 0) | (b > 0)
    if not seen.any():
        return 0.0
    ranks = [rankdata(values[seen]) for values in (a, b)]
    a, b = (rank - rank.mean() for rank in ranks)
    norms = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norms) if norms > 0 else 0.0
