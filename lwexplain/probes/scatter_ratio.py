"""The scatter inside classes in the directions of their means, over that of the means: free of the noise in the means.

The separation law and NC1 divide by the scatter of the class means. Means of a finite sample carry noise, which adds to
their scatter, and more so in directions where they hardly differ: the plain ratio is far too small there.
"""

import math

import torch
from torch import Tensor

from lwexplain.probes.jackknife import Bounds, bias_corrected_interval
from lwexplain.probes.moments import ClassMoments, Moments

CERTAIN = 0.05
"""Share of the smallest scatter of means in any direction that must be left without the noise."""

UNCERTAIN = "no interval: the class means differ by little more than their noise"


def interval_of_scatter_ratio(moments: Moments, combinations: Tensor, by_count: bool) -> tuple[Bounds, str]:
    """95 % interval of the population's tr(S (M^T M)^+), and why there is none.

    S is the covariance inside classes and M (R, D) the ``combinations`` (R, K') of the class means, each times the root
    of its share of the samples where ``by_count``.
    """
    whole = moments.whole
    if moments.note:
        return (None, None), moments.note
    parts = [whole, *(part for part in moments.all_but_one() if len(part.counts) == len(whole.counts))]
    value, *replicates = (scatter_ratio(part, combinations, by_count) for part in parts)
    low, high = bias_corrected_interval(value, replicates)
    if low is None or high is None:
        return (None, None), UNCERTAIN
    return (max(low, 0.0), max(high, 0.0)), ""


def scatter_ratio(moments: ClassMoments, combinations: Tensor, by_count: bool) -> float:
    """tr(S (M^T M)^+) without what noise of the means adds to M M^T and M S M^T; NaN where nearly all is noise.

    With V the covariance of the noise over the combinations, the first exceeds its expectation by tr(S) V and the
    second by tr(S^2) V, for which the unbiased estimate of normal samples stands; with fewer features than
    combinations, M^T M exceeds it by tr(V) S.
    """
    counts, freedom = moments.counts, moments.n - len(moments.counts)
    if freedom < 2:
        return math.nan
    weights = combinations.to(moments.means)
    if by_count:
        weights = weights * (counts / counts.sum()).sqrt()
    means, covariance = weights @ moments.means, moments.within / freedom
    noise = weights @ torch.diag(1 / counts) @ weights.T
    if means.shape[1] < len(means):
        scatter = means.T @ means - noise.trace() * covariance
        inverse = _inverse(scatter, means.T @ means)
        return math.nan if inverse is None else float((covariance * inverse).sum())
    trace, squares = covariance.trace(), covariance.square().sum()
    squares = (squares - trace.square() / freedom) / (1 + 1 / freedom - 2 / freedom**2)
    inverse = _inverse(means @ means.T - trace * noise, means @ means.T)
    if inverse is None:
        return math.nan
    within = means @ covariance @ means.T - squares * noise
    return float((inverse @ within * inverse.T).sum())


def _inverse(scatter: Tensor, noisy: Tensor) -> Tensor | None:
    """The inverse of a scatter (R, R) freed of noise; None where in some direction hardly anything is left."""
    smallest = float(torch.linalg.eigvalsh(noisy)[0])
    values, vectors = torch.linalg.eigh(scatter)
    if smallest <= 0 or not float(values[0]) > CERTAIN * smallest:
        return None
    return vectors / values @ vectors.T
