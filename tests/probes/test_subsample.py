"""A sub-sample keeps the classes in proportion and depends on labels and seed only."""

import numpy as np
import pytest

from lwexplain.probes import subsample
from lwexplain.probes.jackknife import jackknife_groups
from lwexplain.probes.subsample import class_order, pairwise_samples, sample_note, stratified_sample


def test_classes_stay_in_proportion_and_no_rare_class_is_lost():
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [6000, 3000, 990, 10]))
    taken = stratified_sample(y, 1000, seed=1)
    assert len(taken) == len(np.unique(taken)) == 1000
    assert (np.diff(taken) > 0).all()
    np.testing.assert_allclose(np.bincount(y[taken]), [600, 300, 99, 2], atol=3)
    np.testing.assert_array_equal(taken, stratified_sample(y, 1000, seed=1))
    assert not np.array_equal(taken, stratified_sample(y, 1000, seed=2))
    np.testing.assert_array_equal(stratified_sample(y, 10_000, seed=1), np.arange(10_000))


def test_memory_and_number_of_pairs_bound_the_samples(make_stage, monkeypatch):
    stage = make_stage(classes=2, sizes={"val": (300, 200)}, dims=4)
    assert len(pairwise_samples(stage, "val")) == 500
    assert sample_note(stage, "val", 500) == ""
    stage.memory_bytes = 4 * 8 * 4 * 120
    assert len(pairwise_samples(stage, "val")) == 120
    monkeypatch.setattr(subsample, "PAIRWISE_SAMPLES", 50)
    assert len(pairwise_samples(stage, "val")) == 50
    assert sample_note(stage, "val", 50) == "stratified sub-sample of 50 of 500 val samples"


@pytest.mark.parametrize("groups", [1, 3])
def test_the_order_is_by_class_and_then_by_group(groups):
    y = np.array([2, 0, 2, 2, 0, 2, 5, 2])
    order = class_order(y, groups)
    assert sorted(order) == list(range(8))
    keys = list(zip(y[order], jackknife_groups(y, groups)[order], strict=True))
    assert keys == sorted(keys)
