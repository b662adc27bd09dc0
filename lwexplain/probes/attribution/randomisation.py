"""Do maps show the network or only the image? Shuffled weights and an edge detector tell (Adebayo et al. 2018).

The check explains the same images through networks with all weights shuffled, the end of Adebayo's cascade, where
nothing of what was learnt is left. Where a map is a mix of something that the image alone decides and something that
the weights decide, of variances a and b, its correlation with the map of shuffled weights is a / (a + b): the share of
the map that weights have no part in. Maps that owe more than half to the image are refused. What independent maps give
is 0, but a single shuffling may correlate by chance (to 0.5 for Grad-CAM, whose few channels take random signs), so
that several are drawn and averaged.

Correlations are those of ranks, as maps are shown: values below a tenth of a map's scale (its 99th percentile) count
as zero. Without that, the order of faint values far from the evidence would decide: on a network whose evidence is a
small patch, 5 % of an edge detector in a map that is right would be refused. With it, mixes of an edge detector and a
true map, of equal standard deviation, are refused from half edges on, where the true map is sparse from a third or a
quarter on; true maps of trained networks have at most 0.2.

The strength of maps without their signs is a second figure, for an edge detector with signs from the network is an edge
detector still. Strengths share more by nature: a product of gradient and image, such as integrated gradients, has the
factor |image| under any weights (0.2 to 0.3 in trained networks), so that the bound lies a little higher. Last, the
likeness to an edge detector of the image is compared before and after shuffling.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from lwexplain.probes.attribution.base import Network, Tap

SHUFFLES = 3
FAINT = 0.1
"""Of a map's scale; what is below is hardly seen."""

MAX_CORRELATION = 0.5
"""Of maps with their signs: the share of their variance that the image alone decides."""

MAX_STRENGTH_CORRELATION = 0.6
MAX_EDGE_CORRELATION = 0.7
"""Of the strength of maps with an edge detector, before and after shuffling: half of the variance (0.7 squared)."""


@dataclass(frozen=True)
class Randomisation:
    """Rank correlations of the maps of N images, (N,) each, means over the shuffled networks.

    ``shown`` of maps as they are and ``strength`` of |maps| with those of shuffled weights; ``edges`` of |maps| with
    edges of the image and ``edges_shuffled`` of the |maps| of shuffled weights with them. Of a network without weights
    only ``edges`` is known. ``empty`` counts maps of shuffled weights that are constant.
    """

    edges: np.ndarray
    shown: np.ndarray | None = None
    strength: np.ndarray | None = None
    edges_shuffled: np.ndarray | None = None
    empty: int = 0

    @property
    def cause(self) -> str:
        """Why the maps must not be read as a picture of the network; empty where they may."""
        like_edges = float(self.edges.mean())
        if self.shown is None or self.strength is None or self.edges_shuffled is None:
            if like_edges <= MAX_EDGE_CORRELATION:
                return ""
            return (
                f"looks like an edge detector of the image (rank correlation {like_edges:.2f}), and the network has no "
                "weights whose shuffling would tell them apart"
            )
        shown, strength, after = (float(part.mean()) for part in (self.shown, self.strength, self.edges_shuffled))
        compared = f"with an edge detector {like_edges:.2f} before and {after:.2f} after shuffling"
        if shown > MAX_CORRELATION:
            what = f"rank correlation {shown:.2f} with the maps of shuffled weights is above {MAX_CORRELATION}"
        elif strength > MAX_STRENGTH_CORRELATION:
            what = (
                f"rank correlation of strengths {strength:.2f} with the maps of shuffled weights is above "
                f"{MAX_STRENGTH_CORRELATION}"
            )
        elif min(like_edges, after) > MAX_EDGE_CORRELATION:
            what = f"rank correlation with an edge detector is above {MAX_EDGE_CORRELATION} whatever the weights"
        else:
            return ""
        return f"shows the image more than the network: {what} ({compared})"


def compare_with_shuffled(maps: np.ndarray, shuffled: list[np.ndarray], images: Tensor) -> Randomisation:
    """Compare maps (N, H, W) with those of networks with shuffled weights and with edges of ``images`` (N, C, H, W)."""
    edges = edge_strength(images)
    likeness = rank_correlations(np.abs(maps), edges)
    if not shuffled:
        return Randomisation(likeness)
    others = [np.nan_to_num(other, posinf=0.0, neginf=0.0) for other in shuffled]
    return Randomisation(
        likeness,
        np.mean([rank_correlations(maps, other) for other in others], axis=0),
        np.mean([rank_correlations(np.abs(maps), np.abs(other)) for other in others], axis=0),
        np.mean([rank_correlations(np.abs(other), edges) for other in others], axis=0),
        sum(int((np.ptp(other.reshape(len(other), -1), axis=1) == 0).sum()) for other in others),
    )


def edge_strength(images: Tensor) -> np.ndarray:
    """Length of the Sobel gradient, summed over channels: (N, C, H, W) -> (N, H, W)."""
    from scipy.ndimage import correlate1d

    pixels = images.detach().double().cpu().numpy()
    across, down = (
        correlate1d(correlate1d(pixels, [-1, 0, 1], axis=along), [1, 2, 1], axis=other)
        for along, other in ((-1, -2), (-2, -1))
    )
    return np.hypot(across, down).sum(1)


def shuffle_weights(network: Network, seed: int) -> Network:
    """The network with the values of every weight tensor shuffled among themselves, which keeps the scale of each.

    Weights are the ``nn.Parameter`` that reach a PyTorch function while the network runs; those of the given network
    stay as they are, for the shuffled ones take their places in the call.
    """
    weights = ShuffledWeights(seed)

    def run(x: Tensor, tap: Tap | None) -> Tensor:
        with weights:
            return network(x) if tap is None else network.run_with(x, tap)

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
    """Spearman correlation of maps (N, H, W), as they are shown, image by image: (N,) in [-1, 1].

    Over the pixels that are not zero in both maps, for those that a layer does not see make any two maps alike; 0 where
    one of the maps is constant there.
    """
    return np.array([_rank_correlation(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True)])


def without_faint(values: np.ndarray) -> np.ndarray:
    """The values of a map with 0 in place of those that are hardly seen where it is shown."""
    strength = np.abs(values)
    scale = float(np.percentile(strength, 99)) or float(strength.max(initial=0.0))
    return np.where(strength < FAINT * scale, 0.0, values)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import rankdata

    seen = (a != 0) | (b != 0)
    if not seen.any():
        return 0.0
    ranks = [rankdata(without_faint(values)[seen]) for values in (a, b)]
    a, b = (rank - rank.mean() for rank in ranks)
    norms = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norms) if norms > 0 else 0.0
