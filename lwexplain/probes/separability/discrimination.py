"""Generalized discrimination value: mean distances inside classes against those between them."""

import math

import torch
from torch import Tensor

from lwexplain.probes.distances import pair_blocks
from lwexplain.probes.jackknife import GROUPS, bias_corrected_interval


def generalized_discrimination_value(
    x: Tensor, counts: list[int], memory_bytes: int
) -> tuple[float, float | None, float | None, str]:
    """GDV, 95 % interval (low, high) and a note: -1 for perfectly separated classes, 0 for classes that do not differ.

    GDV = D^(-1/2) [ mean over classes of the mean distance inside - mean over pairs of classes of the mean
    distance between ], on features z-scored and halved (Schilling et al. 2021, Neural Networks 139, eq. 1-4).
    D counts the dimensions that vary; constant ones are left out, as they have no z-score. Classes of one
    sample have no distance inside and are left out of the first mean. ``x`` (N, D) float64 in the order of
    ``subsample.class_order``.

    The interval is of the population's value, by the jackknife (``jackknife.bias_corrected_interval``); what new
    z-scores make of a value without a group is added to the first order.
    """
    std, mean = torch.std_mean(x, dim=0, correction=0)
    varies = std > 1e-7 * mean.abs()  # less is the resolution of float32
    if not varies.any():
        return 0.0, None, None, "every feature is constant"
    if max(counts) == 1:
        return math.nan, None, None, "every class has one sample only"
    z = (x - mean if varies.all() else x[:, varies].sub_(mean[varies])).div_(2 * std[varies])
    notes = []
    if not varies.all():
        notes.append(f"constant features left out: {int((~varies).sum())} of {len(varies)}")
    if min(counts) == 1:
        alone = counts.count(1)
        notes.append(
            "a class of one sample has no distance inside"
            if alone == 1
            else f"{alone} classes of one sample have no distance inside"
        )
    groups = GROUPS
    if min(counts) < 3:
        groups = 1
        notes.append("no interval: a class has fewer than 3 samples")
    elif 2 * 8 * GROUPS * len(counts) ** 2 > memory_bytes // 4:
        groups = 1
        notes.append(f"no interval: {len(counts)} classes are too many for the jackknife within the memory limit")

    totals, involving = distance_sums(z, counts, groups)
    sizes = torch.tensor(counts, dtype=x.dtype, device=x.device)
    value = _value(totals, sizes, z.shape[1])
    replicates = []
    cell = _cells(counts, groups, x.device)
    slopes = _slopes(z, counts) if groups > 1 else z.new_zeros(z.shape[1])
    for group in range(groups if groups > 1 else 0):
        taken = torch.bincount(cell[cell % groups == group] // groups, minlength=len(counts))  # of each class
        kept = z[cell % groups != group]
        rescaled = -(2 * kept.std(dim=0, correction=0)).log()  # 2 std is 1 of all
        moved = 0.0 if not bool(rescaled.isfinite().all()) else float(slopes @ rescaled)
        replicates.append(_value(totals - involving[group], sizes - taken, z.shape[1]) + moved)
    return value, *bias_corrected_interval(value, replicates), "; ".join(notes)


def distance_sums(x: Tensor, counts: list[int], groups: int) -> tuple[Tensor, Tensor]:
    """Sums over ordered pairs of rows of ``x`` of their distances, by class (K', K'), and the part of these sums
    that involves rows of each group (G, K', K').

    ``x`` is in the order of ``subsample.class_order`` with these ``groups``.
    """
    k, cell = len(counts), _cells(counts, groups, x.device)
    one = torch.zeros(groups, k, k, dtype=x.dtype, device=x.device)  # the first of the ordered pair is in the group
    both = torch.zeros_like(one)
    for rows, d2 in pair_blocks(x):
        cells, here = torch.unique_consecutive(cell[rows], return_inverse=True)
        members = torch.nn.functional.one_hot(here, len(cells)).to(x.dtype)
        sums = torch.zeros(len(cells), k * groups, dtype=x.dtype, device=x.device)
        sums.index_add_(1, cell[rows.start :], members.T @ d2.sqrt_())
        for c, to_others in zip(cells.tolist(), sums.view(len(cells), k, groups), strict=True):
            label, group = divmod(c, groups)
            one[group, label] += to_others.sum(1)
            one[:, :, label] += to_others.T
            both[group, label] += to_others[:, group]
            both[group, :, label] += to_others[:, group]
    return one.sum(0), one + one.mT - both


def _slopes(z: Tensor, counts: list[int]) -> Tensor:
    """Derivative (D,) of the GDV by the logarithm of the scale of each dimension of ``z`` (N, D).

    A distance d changes by (difference in the dimension)^2 / d.
    """
    sizes = torch.tensor(counts, dtype=z.dtype, device=z.device)
    k, several = len(counts), int((sizes > 1).sum())
    weights = -2 / (sizes[:, None] * sizes * k * (k - 1)) if k > 1 else z.new_zeros(1, 1)
    weights.diagonal().copy_(torch.where(sizes > 1, 2 / (sizes * (sizes - 1) * several), 0.0))
    own = torch.repeat_interleave(torch.arange(k, device=z.device), sizes.long())
    slopes, squares = z.new_zeros(z.shape[1]), z.square()
    for rows, d2 in pair_blocks(z):
        share = torch.where(d2 > 0, weights[own[rows]][:, own[rows.start :]] / d2.sqrt(), 0.0)
        to, others = squares[rows], z[rows.start :]
        slopes += share.sum(1) @ to + share.sum(0) @ squares[rows.start :] - 2 * (z[rows] * (share @ others)).sum(0)
    return slopes / math.sqrt(z.shape[1])


def _cells(counts: list[int], groups: int, device: torch.device) -> Tensor:
    """Class times ``groups`` plus group of each row (N,), rows in the order of ``subsample.class_order``."""
    sizes = torch.tensor(counts, device=device)
    own = torch.repeat_interleave(torch.arange(len(counts), device=device), sizes)
    return (own * groups + torch.arange(len(own), device=device) % groups).sort().values


def _value(totals: Tensor, sizes: Tensor, dimensions: int) -> float:
    several = sizes > 1
    inside = (totals.diagonal() / (sizes * (sizes - 1)))[several].mean()
    between = (totals / (sizes[:, None] * sizes)).triu(1).sum() / (len(sizes) * (len(sizes) - 1) / 2)
    return float((inside - between) / math.sqrt(dimensions))
