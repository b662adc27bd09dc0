"""Intervals for shares of samples: of one proportion, and of the mean of several classes' proportions."""

import math
from collections.abc import Sequence

import numpy as np

Z90 = 1.6448536269514722  # 95 % quantile of the standard normal distribution
Z95 = 1.959963984540054  # 97.5 % quantile

POOLED = 4.0
"""How many samples the variance common to all classes counts for, beside those of a class."""


def wilson_interval(p: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Score interval for a proportion ``p`` of ``n`` samples (Wilson 1927), 95 % unless another ``z`` is given."""
    if n <= 0:
        return 0.0, 1.0
    z2 = z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(max(p * (1 - p), 0.0) / n + z2 / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # p itself, whatever the rounding


def mean_share_interval(right: Sequence[int], counts: Sequence[int]) -> tuple[float, float]:
    """95 % interval for the mean of the shares ``right[k] / counts[k]`` (K,) of K groups of samples, none empty.

    The Wilson interval of the mean at its effective sample size, the size of a single sample whose share would vary as
    much as the mean does (Korn and Graubard 1998 do this for Clopper-Pearson). A share of few samples that are all
    right or all wrong seems not to vary at all; so the variance of each group is taken together with the one common to
    all groups, which counts for POOLED samples.
    """
    sizes = np.asarray(counts, dtype=float)
    shares = np.asarray(right, dtype=float) / sizes
    mean = float(shares.mean())
    common = mean * (1 - mean)
    own = shares * (1 - shares) * sizes / np.maximum(sizes - 1, 1)
    variance = float(((sizes * own + POOLED * common) / (sizes + POOLED) / sizes).sum())
    even = float((1 / sizes).sum())  # K^2 times the variance of the mean is common * even where all groups are alike
    ratio = variance / (common * even) if common > 0 else 1.0
    return wilson_interval(mean, len(sizes) ** 2 / even / ratio)
