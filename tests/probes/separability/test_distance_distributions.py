"""The Kolmogorov-Smirnov statistics equal SciPy's on all distances, however few of them may be collected."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp

from lwexplain.probes.distances import squared_distance_blocks
from lwexplain.probes.separability import distance_distributions
from lwexplain.probes.separability.distance_distributions import DistanceDistributions


def direct(x, y):
    d, statistics = cdist(x, x), []
    for k in np.unique(y):
        inside = d[np.ix_(y == k, y == k)]
        inside, outside = inside[np.triu_indices(len(inside), 1)], d[np.ix_(y == k, y != k)].ravel()
        statistics.append(ks_2samp(inside, outside).statistic if len(inside) and len(outside) else np.nan)
    return statistics


def measured(x, counts):
    rows = torch.from_numpy(x)
    distributions = DistanceDistributions(rows, counts, memory_bytes=0)
    for at, d2 in squared_distance_blocks(rows):
        distributions.add(at, d2)
    return distributions.statistics()


def features(kind, y, rng):
    x = rng.normal(size=(len(y), 3)) + 0.3 * y[:, None]
    if kind == "whole numbers":
        return np.round(x)
    if kind == "binary":
        return (x > 0).astype(np.float64)
    if kind == "duplicates":
        x[rng.integers(0, len(y), 20)] = x[rng.integers(0, len(y), 20)]
    if kind == "constant":
        x[:] = 3.7
    if kind == "two far clusters":
        x = rng.integers(0, 2, len(y))[:, None] + 1e-3 * x
    if kind == "hardly any difference":
        x = 1.0 * (rng.integers(0, 100, (len(y), 1)) == 0) + (rng.integers(0, 10, (len(y), 1)) == 0) * 1e-3
    if kind == "heavy tails":
        x = np.exp(2 * x)
    return x


@pytest.mark.parametrize("few", [(2**10, 2**8), (1, 4), (30, 4)], ids=["usual", "one at a time", "thirty at a time"])
@pytest.mark.parametrize(
    "kind",
    [
        "normal",
        "whole numbers",
        "binary",
        "duplicates",
        "constant",
        "two far clusters",
        "hardly any difference",
        "heavy tails",
    ],
)
def test_statistics_equal_those_of_all_distances(monkeypatch, kind, few):
    monkeypatch.setattr(distance_distributions, "FEWEST_COLLECTED", few[0])
    monkeypatch.setattr(distance_distributions, "FEWEST_BINS", few[1])
    monkeypatch.setattr(distance_distributions, "DISTANCES_PER_BIN", 1000)
    for seed, counts in enumerate([[20, 8, 13], [1, 19], [2, 3, 1, 24]]):
        y = np.repeat(np.arange(len(counts)), counts)
        x = features(kind, y, np.random.default_rng(seed))
        np.testing.assert_allclose(measured(x, counts), direct(x, y), rtol=1e-9, atol=1e-12)


def test_few_distances_are_collected(monkeypatch):
    """Where the supremum is takes one look into one distance in twenty at most."""
    collected = []
    difference = distance_distributions.Collection.difference

    def counted(self, *arguments):
        collected.append(sum(map(len, self.inside + self.outside)))
        return difference(self, *arguments)

    monkeypatch.setattr(distance_distributions.Collection, "difference", counted)
    monkeypatch.setattr(distance_distributions, "DISTANCES_PER_BIN", 64)
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 700)
    x = rng.normal(size=(1400, 10)) + 0.3 * y[:, None]
    np.testing.assert_allclose(measured(x, [700, 700]), direct(x, y), rtol=1e-12)
    assert sum(collected) < 0.05 * 1400**2
