"""Intervals hold what they are of about as often as they say, and equal worked values."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from lwexplain.probes.base import StageData
from lwexplain.probes.collapse import NeuralCollapse
from lwexplain.probes.geometry import Geometry
from lwexplain.probes.jackknife import (
    GROUPS,
    RECIPROCAL,
    T_QUANTILE,
    bias_corrected_interval,
    error_of_pairs,
    interval_at_this_size,
    interval_of_share,
    jackknife_error,
    jackknife_groups,
)
from lwexplain.probes.separability.probe import Separability

SAMPLES = 100
CLASSES, DIMS, N = 4, 6, 160
MEANS = 1.2 * np.random.default_rng(0).normal(size=(CLASSES, DIMS))
SCALES = np.linspace(1.5, 0.5, DIMS)


def intervals_of_samples():
    """Value, low and high (SAMPLES, 3) of every measure with an interval, of all classes together."""
    found = {}
    head = torch.nn.Linear(DIMS, CLASSES).double()
    for seed in range(SAMPLES):
        rng = np.random.default_rng(seed)
        y = np.arange(N) % CLASSES
        x = MEANS[y] + SCALES * rng.normal(size=(N, DIMS))
        logits = dict.fromkeys(("train", "val"), head(torch.from_numpy(x)).numpy(force=True))
        stage = StageData("s", 1, {"train": x, "val": x}, {"train": y, "val": y}, list("abcd"), logits, head=head)
        rows = [*Separability().measure(stage), *Geometry().measure(stage), *NeuralCollapse().measure(stage)]
        for row in rows:
            if row.split == "val" and row.class_ is None and row.low is not None and row.metric != "nc4":
                found.setdefault(row.metric, []).append((row.value, row.low, row.high))
    return {metric: np.array(bounds) for metric, bounds in found.items()}


def population_values():
    """By their formulas from the means and variances that the samples are drawn with."""
    centred = MEANS - MEANS.mean(0)
    within, between = np.diag(SCALES**2), centred.T @ centred / CLASSES
    spectrum = np.linalg.eigvalsh(within + between)
    share = np.sqrt(spectrum) / np.sqrt(spectrum).sum()
    law = float(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)))
    fisher = float(np.trace(between) / np.trace(within))
    return {
        "fisher_ratio": fisher,
        "calinski_harabasz": fisher * (N - CLASSES) / (CLASSES - 1),
        "separation_law": law,
        "nc1": law / CLASSES,
        "participation_ratio": float(spectrum.sum() ** 2 / (spectrum**2).sum()),
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
    }


def test_intervals_cover_their_targets_as_often_as_they_say():
    """Of 100 samples at least 88: fewer have a probability below 0.002 where the coverage is 95 %."""
    few = 88
    assert binom(SAMPLES, 0.95).cdf(few - 1) < 2e-3
    known, found = population_values(), intervals_of_samples()
    assert set(found) == {*known, "separability_index", "knn_purity", "silhouette", "hypothesis_margin", "gdv"}
    for metric, bounds in found.items():
        value, low, high = bounds.T
        target = known.get(metric, value.mean())  # of neighbours: the mean over samples of this size
        assert len(bounds) == SAMPLES, metric
        assert ((low <= target) & (target <= high)).sum() >= few, metric


def test_the_interval_is_centred_where_the_bias_is_taken_off():
    """The mean of squares about the mean of a sample is (N - 1) / N of the variance."""
    x = np.random.default_rng(0).normal(size=50)
    group = jackknife_groups(np.zeros(50, dtype=int), GROUPS)
    replicates = [float(x[group != g].var()) for g in range(GROUPS)]
    low, high = bias_corrected_interval(float(x.var()), replicates)
    assert (low + high) / 2 == pytest.approx(GROUPS * x.var() - (GROUPS - 1) * np.mean(replicates))
    assert (low + high) / 2 == pytest.approx(x.var(ddof=1), rel=0.03)
    assert interval_at_this_size(float(x.var()), replicates)[0] < x.var()


def test_the_error_of_a_mean_is_that_of_its_groups():
    x = np.random.default_rng(1).normal(size=100)
    group = jackknife_groups(np.zeros(100, dtype=int), GROUPS)
    replicates = [float(x[group != g].mean()) for g in range(GROUPS)]
    means = np.array([x[group == g].mean() for g in range(GROUPS)])
    assert jackknife_error(replicates) == pytest.approx(means.std(ddof=1) / math.sqrt(GROUPS))
    low, high = interval_at_this_size(float(x.mean()), replicates)
    assert high - low == pytest.approx(2 * T_QUANTILE * jackknife_error(replicates))


def test_groups_are_of_equal_size_also_where_classes_are_small():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 3))
    group = jackknife_groups(labels, GROUPS)
    assert np.bincount(group).tolist() == [12] * GROUPS
    assert all(len(np.unique(group[labels == k])) == 3 for k in range(40))


def test_a_share_of_0_or_1_has_an_interval_of_some_width():
    assert interval_of_share(1.0, 0.0, 100, 2.0) == (pytest.approx(50 / 54), 1.0)
    low, high = interval_of_share(0.0, 0.0, 100, 2.0)
    assert (low, high) == (0.0, pytest.approx(4 / 54))


def test_samples_that_are_each_others_nearest_count_as_one():
    deviations = np.array([0.5, 0.5, -0.5, -0.5])
    pairs = np.array([1, 0, 3, 2])
    assert error_of_pairs(deviations, pairs, 4) == pytest.approx(math.sqrt(2.0) / 4)
    assert error_of_pairs(deviations, np.array([3, 2, 1, 0]), 4) == pytest.approx(math.sqrt(1.0) / 4)


def test_what_is_not_finite_or_too_little_has_no_interval():
    assert bias_corrected_interval(1.0, [1.0] * 9) == (None, None)
    assert bias_corrected_interval(1.0, [1.0] * 9 + [math.nan]) == (None, None)
    assert bias_corrected_interval(1.0, [1.0] * 9 + [0.0], RECIPROCAL) == (None, None)
    assert interval_of_share(math.nan, 0.1, 30, 2.0) == (None, None)
