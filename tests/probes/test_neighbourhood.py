"""The nearest neighbours are scikit-learn's, in the order of the split, and found once."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from lwexplain.errors import ProbeError
from lwexplain.probes import distances, subsample
from lwexplain.probes.neighbourhood import NEIGHBOURS, neighbours_of, remembered_neighbours
from lwexplain.probes.separability.probe import Separability


@pytest.mark.parametrize("after_separability", [False, True])
def test_neighbours_equal_those_of_scikit_learn(make_stage, monkeypatch, after_separability):
    monkeypatch.setattr(distances, "BLOCK_BYTES", 8 * 1000)
    stage = make_stage(seed=2, classes=4)
    if after_separability:
        Separability().measure(stage)
        assert remembered_neighbours(stage, "val") is not None
    found = neighbours_of(stage)
    assert found is neighbours_of(stage)
    wide = stage.features["val"].astype(np.float64)
    expected, indices = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(wide).kneighbors()
    np.testing.assert_array_equal(found.samples, np.arange(len(wide)))
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-9)


@pytest.mark.parametrize("after_separability", [False, True])
def test_indices_count_within_the_sub_sample(make_stage, monkeypatch, after_separability):
    monkeypatch.setattr(subsample, "PAIRWISE_SAMPLES", 25)
    stage = make_stage(seed=3)
    if after_separability:
        Separability().measure(stage)
    found = neighbours_of(stage)
    x = stage.features["val"][found.samples].astype(np.float64)
    assert found.indices.shape == found.distances.shape == (25, NEIGHBOURS)
    between = np.linalg.norm(x[:, None] - x[found.indices], axis=2)
    np.testing.assert_allclose(between, found.distances, rtol=1e-9)


def test_few_samples_have_fewer_neighbours(make_stage):
    assert neighbours_of(make_stage(classes=2, sizes={"val": (2, 1)})).indices.shape == (3, 2)
    assert neighbours_of(make_stage(classes=2, sizes={"val": (1, 0)})).distances.shape == (1, 0)


def test_a_missing_split_is_named(make_stage):
    with pytest.raises(ProbeError, match="no features for split 'ood'"):
        neighbours_of(make_stage(), "ood")
