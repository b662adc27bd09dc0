"""The GDV equals direct sums over all pairs, and its interval that of leaving groups out one by one."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from lwexplain.probes import distances
from lwexplain.probes.jackknife import GROUPS, bias_corrected_interval, jackknife_groups
from lwexplain.probes.separability.discrimination import generalized_discrimination_value
from lwexplain.probes.subsample import class_order


def direct(z, y):
    d, classes = cdist(z, z), np.unique(y)
    inside = []
    for k in classes:
        block = d[np.ix_(y == k, y == k)]
        inside.append(block[np.triu_indices(len(block), 1)].mean())
    between = [d[np.ix_(y == k, y == m)].mean() for k in classes for m in classes if k < m]
    return (np.mean(inside) - np.mean(between)) / math.sqrt(z.shape[1])


def left(x, group):
    """The samples without each group."""
    return [x[group != g] for g in range(GROUPS)]


def measured(x, y, memory_bytes=2**29):
    order = class_order(y, GROUPS)
    return generalized_discrimination_value(torch.from_numpy(x[order]), np.bincount(y).tolist(), memory_bytes)


@pytest.mark.parametrize("block_bytes", [8, 1000, 2**22])
@pytest.mark.parametrize("counts", [(14, 9, 31), (3, 12), (4, 4, 4, 25)])
def test_value_and_interval_equal_the_direct_ones(monkeypatch, counts, block_bytes):
    monkeypatch.setattr(distances, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(len(counts))
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    x = rng.normal(size=(len(y), 4)) + 0.5 * y[:, None]
    z, group = 0.5 * (x - x.mean(0)) / x.std(0), jackknife_groups(y, GROUPS)
    expected = direct(z, y)
    replicates = [
        direct(0.5 * (part - part.mean(0)) / part.std(0), y[group != g]) for g, part in enumerate(left(x, group))
    ]
    value, low, high, note = measured(x, y)
    assert value == pytest.approx(expected, rel=1e-9)
    bounds = bias_corrected_interval(expected, replicates)  # with z-scores of their own
    assert (low, high) == pytest.approx(bounds, abs=0.15 * (bounds[1] - bounds[0]))
    assert note == ""


def test_two_classes_that_are_points_reach_minus_one():
    x = np.repeat([[0.0, 5.0, 1.0], [2.0, 4.0, -1.0]], 10, axis=0)
    assert measured(x, np.repeat([0, 1], 10))[0] == pytest.approx(-1.0, abs=1e-9)


def test_random_labels_are_at_zero_within_the_interval():
    rng = np.random.default_rng(1)
    value, low, high, _ = measured(rng.normal(size=(1500, 20)), rng.integers(0, 2, 1500))
    assert value == pytest.approx(0.0, abs=5e-3)
    assert low < value < high
    assert high - low < 0.01


def test_constant_features_small_classes_and_little_memory_are_noted():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3))
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    plain, padded = measured(x, y), measured(np.c_[x, np.full(9, 3.7)], y)
    assert padded[0] == pytest.approx(plain[0], rel=1e-9)
    assert plain[1:3] == (None, None)
    assert plain[3] == "a class of one sample has no distance inside; no interval: a class has fewer than 3 samples"
    assert padded[3].startswith("constant features left out: 1 of 4")
    assert measured(np.ones((9, 3)), y) == (0.0, None, None, "every feature is constant")
    alone = measured(x[:3], np.arange(3))
    assert math.isnan(alone[0])
    assert alone[3] == "every class has one sample only"
    bounded = measured(x[:8], y[:8], memory_bytes=100)
    assert bounded[0] == pytest.approx(measured(x[:8], y[:8])[0], rel=1e-12)
    assert bounded[1:] == (None, None, "no interval: 2 classes are too many for the jackknife within the memory limit")
