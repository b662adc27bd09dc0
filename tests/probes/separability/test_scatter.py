"""Indices of the class scatter equal scikit-learn's and NumPy's, their intervals those of leaving samples out."""

import math

import numpy as np
import pytest
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from lwexplain.probes import splits
from lwexplain.probes.base import StageData
from lwexplain.probes.jackknife import GROUPS, bias_corrected_interval, jackknife_groups
from lwexplain.probes.moments import moments_of
from lwexplain.probes.separability.scatter import (
    class_spread,
    closest_pairs,
    davies_bouldin_ratios,
    fisher_of_classes,
    fisher_of_pairs,
    scatter_indices,
)


def scatter_of(x, y):
    """Sw and Sb as in He and Su 2023, divided by N."""
    within = between = np.zeros((x.shape[1],) * 2)
    for k in np.unique(y):
        part, apart = x[y == k] - x[y == k].mean(0), x[y == k].mean(0) - x.mean(0)
        within, between = within + part.T @ part, between + len(part) * np.outer(apart, apart)
    return within / len(x), between / len(x)


def fisher(x, y):
    within, between = scatter_of(x, y)
    return np.trace(between) / np.trace(within)


def fisher_of_class(x, y, k):
    own = x[y == k]
    return len(own) * ((own.mean(0) - x.mean(0)) ** 2).sum() / ((own - own.mean(0)) ** 2).sum()


def law(x, y):
    within, between = scatter_of(x, y)
    return np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True))


def stage_of(x, y):
    return StageData("s", 1, {"val": x}, {"val": y}, [str(k) for k in range(max(y) + 1)])


def blobs(counts, dims, seed):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = rng.normal(size=(len(counts), dims))
    return centres[y] + rng.normal(size=(len(y), dims)) * rng.uniform(0.5, 2, len(counts))[y, None] + 10, y


CASES = [((13, 22, 30), 5), ((15, 11), 1), ((20, 31, 14, 12, 19, 12), 3)]  # the last with fewer features than classes


@pytest.mark.parametrize(("counts", "dims"), CASES)
@pytest.mark.parametrize("block_bytes", [64, 2**20])
def test_values_and_intervals_equal_the_references(monkeypatch, counts, dims, block_bytes):
    monkeypatch.setattr(splits, "BLOCK_BYTES", block_bytes)
    x, y = blobs(counts, dims, seed=dims)
    stage = stage_of(x, y)
    moments, spread = moments_of(stage, "val"), class_spread(stage, "val")
    kept = [jackknife_groups(y, GROUPS) != g for g in range(GROUPS)]

    def check(got, function, *arguments):
        expected = function(x, y, *arguments)
        assert got[0] == pytest.approx(expected, rel=1e-6)
        replicates = [function(x[part], y[part], *arguments) for part in kept]
        low, high = bias_corrected_interval(expected, replicates)
        assert got[1:] == pytest.approx((max(low, 0), max(high, 0)), rel=1e-6)

    indices = scatter_indices(moments)
    check(indices["fisher_ratio"], fisher)
    assert indices["separation_law"][0] == pytest.approx(law(x, y), rel=1e-6)
    assert indices["calinski_harabasz"][0] == pytest.approx(calinski_harabasz_score(x, y), rel=1e-6)
    relative = [np.array(indices[metric]) / indices[metric][0] for metric in ("calinski_harabasz", "fisher_ratio")]
    np.testing.assert_allclose(*relative, rtol=1e-12)
    for k, got in enumerate(fisher_of_classes(moments, spread)):
        check(got, fisher_of_class, k)
    pairs = closest_pairs(moments, spread, 100).tolist()
    assert pairs == [[k, m] for k in range(len(counts)) for m in range(k + 1, len(counts))]
    for (k, m), got in zip(pairs, fisher_of_pairs(moments, spread, closest_pairs(moments, spread, 100)), strict=True):
        check(got, lambda x, y, k=k, m=m: fisher(x[(y == k) | (y == m)], y[(y == k) | (y == m)]))

    ratios = davies_bouldin_ratios(moments.whole.means, spread.distance)
    assert float(ratios.amax(1).mean()) == pytest.approx(davies_bouldin_score(x, y), rel=1e-6)
    for k, m in pairs:
        two = (y == k) | (y == m)
        assert float(ratios[k, m]) == pytest.approx(davies_bouldin_score(x[two], y[two]), rel=1e-6)


def test_the_ratio_of_all_is_the_mean_of_the_classes_weighted_by_their_scatter():
    x, y = blobs((20, 9, 31), 4, seed=0)
    stage = stage_of(x, y)
    moments, spread = moments_of(stage, "val"), class_spread(stage, "val")
    ratios = [value for value, *_ in fisher_of_classes(moments, spread)]
    weights = spread.squares.sum(0).numpy()
    assert np.average(ratios, weights=weights) == pytest.approx(scatter_indices(moments)["fisher_ratio"][0], rel=1e-9)


def test_only_the_closest_pairs_are_kept():
    x, y = blobs((9, 8, 7, 12), 3, seed=4)
    stage = stage_of(x, y)
    moments, spread = moments_of(stage, "val"), class_spread(stage, "val")
    pairs = closest_pairs(moments, spread, 100)
    ratios = [value for value, *_ in fisher_of_pairs(moments, spread, pairs)]
    closest = np.sort(np.argsort(ratios)[:2])
    assert closest_pairs(moments, spread, 2).tolist() == pairs[closest].tolist()


def test_the_separation_law_of_means_in_a_line_takes_one_direction():
    """The between-class scatter then has rank 1: the trace is the spread along the line over that of the means."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 50)
    noise = rng.normal(size=(150, 4))
    noise -= np.stack([noise[y == k].mean(0) for k in range(3)])[y]
    x = noise + np.outer(y - 1.0, [3.0, 0, 0, 0])
    value = scatter_indices(moments_of(stage_of(x, y), "val"))["separation_law"][0]
    assert value == pytest.approx((noise[:, 0] ** 2).mean() / (9 * 2 / 3), rel=1e-9)


def test_points_coinciding_means_and_constants_have_the_limits_of_the_ratios():
    points = np.repeat([[0.1, 5.3], [2.2, 4.7]], [7, 11], axis=0)
    y = np.repeat([0, 1], [7, 11])

    def values(x):
        stage = stage_of(x, y)
        moments, spread = moments_of(stage, "val"), class_spread(stage, "val")
        pairs = closest_pairs(moments, spread, 9)
        ratio = float(davies_bouldin_ratios(moments.whole.means, spread.distance).amax(1).mean())
        indices = [value for value, *bounds in scatter_indices(moments).values()]
        return *indices, fisher_of_pairs(moments, spread, pairs)[0][0], ratio

    assert values(points) == (math.inf, math.inf, 0.0, math.inf, pytest.approx(0.0, abs=1e-12))
    constant = values(np.full((18, 3), 3.7))
    assert all(map(math.isnan, constant[:4]))
    assert constant[4] == math.inf
    same_means = np.where(np.arange(18)[:, None] % 2 == 0, 1.0, -1.0) * np.ones(2)
    same_means[[6, 17]] = 0.0
    assert values(same_means)[:3] == (0.0, 0.0, math.inf)
