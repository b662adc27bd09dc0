"""Separability from the means and the scatter of the classes: no distance between two samples is needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.base import StageData
from lwexplain.probes.jackknife import GROUPS, Bounds, bias_corrected_interval, jackknife_groups
from lwexplain.probes.moments import ClassMoments, Moments, moments_of
from lwexplain.probes.scatter_ratio import interval_of_scatter_ratio
from lwexplain.probes.splits import feature_blocks, read_split

NOTHING = 1e-13
"""A spread below this share of the distance from the origin is rounding of none."""

Interval = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class ClassSpread:
    """How far the samples of each of K' classes are from its mean.

    ``distance`` (K',) is their mean distance, ``squares`` (G, K') the sum of squared distances of each jackknife
    group (G = 1: of all).
    """

    distance: Tensor
    squares: Tensor


def fisher_ratio(moments: ClassMoments) -> float:
    """tr(Sb) / tr(Sw); infinite where every class is one point (Fukunaga 1990, ch. 10)."""
    within, between = _traces(moments)
    return _ratio(between, within)


def separation_law(moments: ClassMoments) -> float:
    """tr(Sw pinv(Sb)): the less, the better separated; it falls by about the same factor from layer to layer.

    He and Su 2023 ("A law of data separation in deep learning", PNAS 120); both scatters are divided by N there,
    which cancels. Sb = C^T C with K' rows C, so that with C = U diag(s) V^T the trace is the sum of v^T Sw v / s^2.
    The rank of Sb is at most K' - 1; eigenvalues s^2 below max(K', D) eps times the largest are taken for 0, as by
    ``numpy.linalg.matrix_rank``. Infinite where all class means coincide.
    """
    within, between = _traces(moments)
    if within == 0 or between == 0:
        return _ratio(within, between)
    _, s, v = torch.linalg.svd(moments.centred_means, full_matrices=False)
    eigenvalues = s.square()[: len(moments.counts) - 1]
    cutoff = max(moments.means.shape) * torch.finfo(s.dtype).eps * float(eigenvalues[0])
    kept = int((eigenvalues > cutoff).sum())
    spread = ((v[:kept] @ moments.within) * v[:kept]).sum(1)
    return float((spread / eigenvalues[:kept]).sum())


def scatter_indices(moments: Moments) -> dict[str, Interval]:
    """Fisher ratio, Calinski-Harabasz index and separation law, each with the interval of the population's value.

    Calinski-Harabasz is [tr(Sb) / (K' - 1)] / [tr(Sw) / (N - K')] (Calinski and Harabasz 1974): the Fisher ratio times
    a number that grows with N, which is why its interval is that of the ratio, times the same number.
    """
    k, n = len(moments.whole.counts), moments.whole.n
    parts = [moments.whole, *(part for part in moments.all_but_one() if len(part.counts) == k)]
    (fisher,) = with_intervals([(fisher_ratio(part),) for part in parts])
    factor = (n - k) / (k - 1)
    low, high = (None if bound is None else factor * bound for bound in fisher[1:])
    value = factor * fisher[0] if n > k else math.nan  # where each class is one sample
    bounds, _ = interval_of_law(moments)
    return {
        "fisher_ratio": fisher,
        "calinski_harabasz": (value, low, high),
        "separation_law": (separation_law(moments.whole), *bounds),
    }


def interval_of_law(moments: Moments) -> tuple[Bounds, str]:
    """Interval of the population's separation law, and why there is none."""
    if not 0 < separation_law(moments.whole) < math.inf:
        return (None, None), ""
    counts = moments.whole.counts
    roots = (counts / counts.sum()).sqrt()[:, None]
    across = torch.linalg.svd(roots).U[:, 1:].T  # (K' - 1, K'), orthogonal to the mean of all samples
    return interval_of_scatter_ratio(moments, across, by_count=True)


def with_intervals(values: Sequence[tuple[float, ...]]) -> list[Interval]:
    """Values and 95 % intervals, none below 0: ``values`` holds those of all samples, then those without each group."""
    return [
        (value, *_not_negative(bias_corrected_interval(value, replicates)))
        for value, *replicates in zip(*values, strict=True)
    ]


def _not_negative(bounds: Bounds) -> Bounds:
    low, high = bounds
    return (None, None) if low is None or high is None else (max(low, 0.0), max(high, 0.0))


def class_spread(stage: StageData, split: str) -> ClassSpread:
    """One pass over the features of a split, in blocks."""
    features, labels = read_split(stage, split)
    moments = moments_of(stage, split)
    means, counts = moments.whole.means, moments.whole.counts
    own = np.searchsorted(moments.whole.classes, labels)
    groups = max(1, len(moments.group_counts))
    own_class, cell = torch.from_numpy(own), torch.from_numpy(jackknife_groups(labels, groups) * len(counts) + own)
    distance, squares = torch.zeros_like(counts), counts.new_zeros(groups * len(counts))
    for at, block in feature_blocks(features):
        mine = own_class[at].to(means.device)
        from_mean = torch.from_numpy(block).to(means.device).double() - means[mine]
        norms = torch.linalg.vector_norm(from_mean, dim=1)
        distance.index_add_(0, mine, norms)
        squares.index_add_(0, cell[at].to(means.device), norms.square())
    return ClassSpread(distance / counts, squares.view(groups, len(counts)))


def davies_bouldin_ratios(means: Tensor, distance: Tensor) -> Tensor:
    """R_lm = (s_l + s_m) / d_lm of all pairs (K', K'), diagonal 0; infinite where two class means coincide.

    s is the mean distance of a class to its mean, d that between means; the mean over classes of the largest R is the
    index, and lower is better (Davies and Bouldin 1979).
    """
    apart = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    sizes = torch.linalg.vector_norm(means, dim=1)
    ratios = (distance[:, None] + distance) / apart
    ratios = torch.where(apart > NOTHING * (sizes[:, None] + sizes), ratios, torch.inf)
    return ratios.fill_diagonal_(0.0)


def fisher_of_classes(moments: Moments, spread: ClassSpread) -> list[Interval]:
    """Fisher ratio of each class: its share of tr(Sb) over its own share of tr(Sw).

    N_k |m_k - m|^2 / sum of |x - m_k|^2 over the class; the ratio of all is their mean weighted by the shares of
    tr(Sw). Infinite for a class of one sample.
    """

    def ratios(counts: Tensor, means: Tensor, within: Tensor) -> tuple[float, ...]:
        mean = counts @ means / counts.sum()
        return tuple(_ratios(counts * _squared_distance(means, mean), within).tolist())

    return with_intervals([ratios(*part) for part in _parts(moments, spread)])


def fisher_of_pairs(moments: Moments, spread: ClassSpread, pairs: Tensor) -> list[Interval]:
    """Fisher ratio of the two classes of each of ``pairs`` (P, 2) alone."""
    first, second = pairs.unbind(1)

    def ratios(counts: Tensor, means: Tensor, within: Tensor) -> tuple[float, ...]:
        weight = counts[first] * counts[second] / (counts[first] + counts[second])
        between = weight * _squared_distance(means[first], means[second])
        return tuple(_ratios(between, within[first] + within[second]).tolist())

    return with_intervals([ratios(*part) for part in _parts(moments, spread)])


def closest_pairs(moments: Moments, spread: ClassSpread, most: int) -> Tensor:
    """The pairs of classes (P, 2), l < m, sorted; no more than the ``most`` of smallest Fisher ratio."""
    whole, within = moments.whole, spread.squares.sum(0)
    pairs = torch.triu_indices(len(whole.counts), len(whole.counts), 1, device=within.device).T
    if len(pairs) <= most:
        return pairs
    apart = torch.cdist(whole.means, whole.means, compute_mode="donot_use_mm_for_euclid_dist").square()
    weight = whole.counts[:, None] * whole.counts / (whole.counts[:, None] + whole.counts)
    ratios = _ratios(weight * apart, within[:, None] + within)[pairs[:, 0], pairs[:, 1]]
    return pairs[ratios.nan_to_num(nan=0.0).argsort(stable=True)[:most].sort().values]


def _parts(moments: Moments, spread: ClassSpread) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Counts, means and traces of the scatter of each class, of all samples and then without each group."""
    whole, squares = moments.whole, spread.squares.sum(0)
    floor = whole.counts * (NOTHING * torch.linalg.vector_norm(whole.means, dim=1)).square()
    parts = [(whole.counts, whole.means, torch.where(squares > floor, squares, 0.0))]
    if len(moments.group_counts) < GROUPS:
        return parts
    for taken, sums, gone in zip(moments.group_counts, moments.group_sums, spread.squares, strict=True):
        left = whole.counts - taken
        shift = -sums / left[:, None]  # NaN for a class that has no other samples: then there is no interval
        within = squares - gone - left * shift.square().sum(1)
        parts.append((left, whole.means + shift, torch.where(within > floor, within, 0.0)))
    return parts


def _squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of rows, 0 where there is nothing but rounding."""
    squares = (x - y).square().sum(-1)
    return torch.where(squares > NOTHING**2 * (x.square().sum(-1) + y.square().sum(-1)), squares, 0.0)


def _traces(moments: ClassMoments) -> tuple[float, float]:
    """tr(Sw) and tr(Sb), 0 where there is nothing but rounding."""
    within, between = float(moments.within.trace()), float(moments.centred_means.square().sum())
    floor = float(moments.counts @ moments.means.square().sum(1)) * NOTHING**2
    return within if within > floor else 0.0, between if between > floor else 0.0


def _ratio(top: float, bottom: float) -> float:
    if bottom > 0:
        return top / bottom
    return math.inf if top > 0 else math.nan


def _ratios(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 0, top / bottom, torch.where(top > 0, torch.inf, torch.nan))
