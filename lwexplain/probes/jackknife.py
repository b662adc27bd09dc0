"""95 % intervals by the delete-a-group jackknife: how an index changes where each of ten groups of samples is left out.

What an interval is of depends on the index:

- an index of class moments has a value in the population, which that of a sample comes near as it grows: the interval
  is of the population's value (``bias_corrected_interval``), with the classes in the proportions of the sample;
- an index of nearest neighbours differs with the size of the sample whatever the population, as neighbours come nearer:
  the interval is of the mean over samples of this size (``interval_at_this_size``, ``interval_of_share``).

The jackknife fails on the single nearest neighbour, whose change is too sudden: ``error_of_pairs`` stands in there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

GROUPS = 10

T_QUANTILE = 2.2621571627409915
"""97.5 % quantile of Student's t with GROUPS - 1 degrees of freedom."""

T_OF_PAIRS = 2.06
"""The same with 25 degrees of freedom: in samples of 200 the spread of ``error_of_pairs`` is that of so many."""

FEWEST = 2 * GROUPS
"""Samples, of all or of a class, below which an index of neighbours carries no interval."""

Bounds = tuple[float, float] | tuple[None, None]


@dataclass(frozen=True)
class Scale:
    """A scale on which an index is nearly normal and its bias nearly in proportion to 1 / N: a map there and back."""

    there: Callable[[float], float]
    back: Callable[[float], float]
    holds: Callable[[float], bool]


PLAIN = Scale(float, float, math.isfinite)
RECIPROCAL = Scale(
    lambda value: 1 / value,
    lambda there: 1 / there if there > 0 else math.inf,
    lambda value: math.isfinite(value) and value > 0,
)


def jackknife_groups(labels: np.ndarray, groups: int) -> np.ndarray:
    """For each sample the group (N,) int64 in [0, groups) that it is left out with.

    Samples are dealt out class by class in their order, so that groups differ by one sample at most, and so do the
    samples of a class in them, also where classes are smaller than ``groups``.
    """
    group = np.empty(len(labels), dtype=np.int64)
    group[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % groups
    return group


def bias_corrected_interval(value: float, replicates: Sequence[float], scale: Scale = PLAIN) -> Bounds:
    """Interval of the population's value from that of all samples and those without each group.

    What a finite sample adds to an index on average falls about as 1 / N, so that GROUPS times the value less
    (GROUPS - 1) times the mean of the replicates is free of it (Quenouille 1956). The interval is centred there, not on
    the value, and may leave the value out. None without GROUPS replicates that the scale holds.
    """
    if len(replicates) < GROUPS or not all(map(scale.holds, [value, *replicates])):
        return None, None
    scaled = [scale.there(replicate) for replicate in replicates]
    centre = GROUPS * scale.there(value) - (GROUPS - 1) * math.fsum(scaled) / GROUPS
    return _about(centre, scaled, scale)


def interval_at_this_size(value: float, replicates: Sequence[float]) -> Bounds:
    """Interval of what an index is on average in samples of this size, about ``value``; None without finite ones."""
    if len(replicates) < GROUPS or not all(map(math.isfinite, [value, *replicates])):
        return None, None
    return _about(value, replicates, PLAIN)


def interval_of_share(value: float, error: float, n: int, quantile: float) -> Bounds:
    """Interval of what a share of n samples is on average, which are not independent.

    The score interval (Wilson 1927) with a ``quantile`` of Student's t, for as many independent samples as would make
    the share vary as much as its standard ``error`` says. Where it is 0 or 1 that says nothing: then n / 2, as two
    samples that are each other's nearest count as one.
    """
    if not math.isfinite(value) or not math.isfinite(error):
        return None, None
    binomial = value * (1 - value)
    independent = binomial / error**2 if error > 0 and binomial > 0 else n / 2
    t2 = quantile**2
    centre = (value + t2 / (2 * independent)) / (1 + t2 / independent)
    half = quantile / (1 + t2 / independent) * math.sqrt(binomial / independent + t2 / (4 * independent**2))
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def jackknife_error(replicates: Sequence[float]) -> float:
    """Standard error from the values without each group: their spread about their mean (Kott 2001, eq. 2)."""
    mean = math.fsum(replicates) / len(replicates)
    squares = math.fsum((replicate - mean) ** 2 for replicate in replicates)
    return math.sqrt((len(replicates) - 1) / len(replicates) * squares)


def error_of_pairs(deviations: np.ndarray, nearest: np.ndarray, counted: int) -> float:
    """Standard error of a mean over ``counted`` of n samples that depends on each one's ``nearest`` (n,) other.

    Samples of which one is the nearest of the other, or that have the same nearest, go together: the products of their
    ``deviations`` (n,) from the mean, 0 for those not counted, add up to the variance, which is no less than that of
    independent samples.
    """
    from scipy.sparse import coo_array

    n, row = len(nearest), np.arange(len(nearest))
    entries = np.ones(2 * n), (np.tile(row, 2), np.concatenate([row, nearest]))
    together = coo_array(entries, shape=(n, n)).tocsr()
    related = together @ together.T
    related.data[:] = 1.0
    return math.sqrt(max(float(deviations @ (related @ deviations)), float(np.square(deviations).sum()))) / counted


def _about(centre: float, scaled: Sequence[float], scale: Scale) -> Bounds:
    half = T_QUANTILE * jackknife_error(scaled)
    low, high = sorted((scale.back(centre - half), scale.back(centre + half)))
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)
