"""How far a method's maps can be trusted: completeness, insertion and deletion, sensitivity, randomisation."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.attribution.base import Explanation, Method, Network, NotApplicable, rise_of
from lwexplain.probes.attribution.curves import Curves, order_of
from lwexplain.probes.attribution.memory import Chunker
from lwexplain.probes.attribution.missing_gradient import missing_gradient
from lwexplain.probes.attribution.randomisation import (
    SHUFFLES,
    Randomisation,
    compare_with_shuffled,
    has_weights,
    shuffle_weights,
)

EPSILON = 1e-3
"""Logit differences below this count as this much in the residual."""

NOISE_RADIUS = 0.02
"""How large the noise is, in units of the normalised images."""

NOISE_DRAWS = 2


def residuals(totals: Tensor, rise: Tensor) -> Tensor:
    """|total - rise| / max(|rise|, 1e-3) per image, rise = f(x) - f(0): what completeness is off by."""
    return (totals.double() - rise).abs() / rise.abs().clamp(min=EPSILON)


def residual_of_all(totals: Tensor, rise: Tensor) -> float:
    """sum |total - rise| / sum |rise| over the images: one whose logit hardly differs weighs as little as it says."""
    return float((totals.double() - rise).abs().sum() / rise.abs().sum().clamp(min=EPSILON * len(rise)))


def incomplete(residual: float, bound: float) -> str:
    """Why the map of an image with this residual must not be read."""
    return f"completeness residual {residual:.2g} of its logit difference is above {bound:g}"


@dataclass
class Subject:
    """What is explained: a network, images (N, C, H, W), the classes explained (N,), and what the checks share."""

    network: Network
    images: Tensor
    targets: Tensor
    chunker: Chunker
    seed: int

    def __post_init__(self) -> None:
        self._rise: Tensor | None = None
        self._curves: Curves | None = None
        self._random: np.ndarray | None = None
        self._shuffled: list[Network] | None = None
        self._missing_gradient: str | None = None

    def explain(self, method: Method) -> Explanation:
        """Raises NotApplicable where the method needs gradients and the network has none."""
        if method.needs_gradient:
            if self._missing_gradient is None:
                self._missing_gradient = missing_gradient(self.network, self.images[:1])
            if self._missing_gradient:
                raise NotApplicable(self._missing_gradient)
        return method.explain(self.network, self.images, self.targets, self.chunker)

    def residuals(self, found: Explanation) -> tuple[float, np.ndarray] | None:
        """Completeness residual of all images together and of each (N,), None where it is not defined."""
        if found.totals is None:
            return None
        if self._rise is None:
            self._rise = rise_of(self.network, self.images, self.targets, self.chunker)
        return residual_of_all(found.totals, self._rise), residuals(found.totals, self._rise).numpy()

    def gains(self, found: Explanation) -> tuple[np.ndarray, np.ndarray]:
        """Insertion area above that of random orders, and deletion area below it: (N,) each, positive where the map
        orders the pixels better than chance."""
        if self._curves is None or self._random is None:
            self._curves = Curves(self.network, self.images, self.targets, self.chunker)
            self._random = self._curves.random_areas(self.seed)
        ranks = order_of(found.maps.numpy(), self.seed)
        return self._curves.insertion_areas(ranks) - self._random, self._random - self._curves.deletion_areas(ranks)

    def sensitivities(self, method: Method, found: Explanation) -> np.ndarray:
        """Largest |map(x + noise) - map(x)| / |map(x)| (Euclidean norms) over a few draws of noise that is uniform in
        [-0.02, 0.02]: (N,) (Yeh et al. 2019, eq. 2)."""
        generator = torch.Generator().manual_seed(self.seed)
        base = found.maps.double().flatten(1)
        changes = []
        for _ in range(NOISE_DRAWS):
            noise = (torch.rand(self.images.shape, generator=generator) * 2 - 1) * NOISE_RADIUS
            noisy = self.images + noise.to(self.images)
            maps = method.explain(self.network, noisy, self.targets, self.chunker).maps
            changes.append((maps.double().flatten(1) - base).norm(dim=1))
        return (torch.stack(changes).amax(0) / base.norm(dim=1)).numpy()

    def randomisation(self, method: Method, found: Explanation) -> Randomisation:
        """The maps compared with those of the same network with shuffled weights and with edges of the images."""
        if self._shuffled is None:
            draws = SHUFFLES if has_weights(self.network, self.images[:1]) else 0
            self._shuffled = [shuffle_weights(self.network, SHUFFLES * self.seed + draw) for draw in range(draws)]
        shuffled = [method.explain(it, self.images, self.targets, self.chunker).maps.numpy() for it in self._shuffled]
        return compare_with_shuffled(found.maps.numpy(), shuffled, self.images)


def mean_interval(values: np.ndarray) -> tuple[float, float | None, float | None]:
    """Mean over images and its 95 % interval by Student's t; no interval for fewer than two values."""
    from scipy.stats import t

    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
