"""How alike a stage represents the same samples at two times, by linear CKA without an interval: quick to compute."""

import math

import numpy as np
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.similarity.hsic import gram_hsic, linear_hsic, linear_kernel
from lwexplain.probes.splits import as_float64

ROUNDING = 1e-12
"""HSIC of features with themselves below this share of its scale is rounding of a zero."""


def linear_cka(first: np.ndarray, second: np.ndarray, *, device: str = "cpu", memory_bytes: int = 512 * 2**20) -> float:
    """The unbiased linear CKA of features (N, D) and (N, E) of the same N >= 4 samples, as ``Similarity`` defines it.

    NaN where either does not vary. By matrices (D, E) where the features are narrow, else by the kernels (N, N): the
    same number. Raises ProbeError for features of different numbers of samples, of fewer than four, or not finite.
    """
    n = len(first)
    if n != len(second) or n < 4:
        raise ProbeError(f"similarity: {n} and {len(second)} samples; expected the same four or more")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ProbeError("similarity: features hold NaN or infinite values; leave such samples out")
    x, y = as_float64(first, device), as_float64(second, device)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    if max(x.shape[1], y.shape[1]) > n:
        found = gram_hsic([linear_kernel(x), linear_kernel(y)], n, memory_bytes=memory_bytes, device=device)
        own_first, cross, own_second = float(found[0, 0]), float(found[0, 1]), float(found[1, 1])
    else:
        own_first = float(linear_hsic(first, first, x_mean, x_mean, device=device)[0])
        cross = float(linear_hsic(first, second, x_mean, y_mean, device=device)[0])
        own_second = float(linear_hsic(second, second, y_mean, y_mean, device=device)[0])
    least = (ROUNDING * _mean_square(x) ** 2, ROUNDING * _mean_square(y) ** 2)
    if not (own_first > least[0] and own_second > least[1]):
        return math.nan
    return cross / math.sqrt(own_first * own_second)


def _mean_square(x: torch.Tensor) -> float:
    """Mean squared distance of the rows of ``x`` (N, D), centred, from 0."""
    return float(x.square().sum() / len(x))
