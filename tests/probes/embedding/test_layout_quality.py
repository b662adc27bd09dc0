"""Neighbourhoods of features and of layouts, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

import lwexplain.probes.embedding.layout_quality as layout_quality
from lwexplain.probes.embedding.layout_quality import nearest_points, neighbourhood_quality


def points(n, dims, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dims)).astype(np.float32) + 30


def test_the_nearest_points_are_scikit_learns():
    x = points(200, 7)
    indices, distances = nearest_points(x, 10)
    expected_distances, expected = NearestNeighbors(n_neighbors=10).fit(x.astype(np.float64)).kneighbors()
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(150, 15), (40, 1), (5, 2)])
def test_quality_equals_scikit_learns(n, k):
    x, layout = points(n, 6), points(n, 2, seed=1)
    layout[: n // 2] = x[: n // 2, :2]
    trusted, kept = neighbourhood_quality(x, layout, k)
    assert trusted == pytest.approx(trustworthiness(x.astype(np.float64), layout, n_neighbors=k), rel=1e-6)
    near = [NearestNeighbors(n_neighbors=k).fit(y.astype(np.float64)).kneighbors()[1] for y in (x, layout)]
    shared = [len(set(a) & set(b)) for a, b in zip(*near, strict=True)]
    assert kept == pytest.approx(np.mean(shared) / k, rel=1e-6)


def test_a_layout_that_is_the_features_keeps_everything():
    x = points(100, 2)
    assert neighbourhood_quality(x, -3 * x + 5, 10) == (1.0, 1.0)


def test_samples_at_the_same_place_are_neighbours_in_any_layout():
    assert neighbourhood_quality(np.full((30, 4), 2.0), points(30, 2), 5) == (1.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 60))
def test_quality_depends_neither_on_the_order_nor_on_the_blocks(seed, rows):
    x, layout = points(50, 4, seed), points(50, 2, seed + 1)
    expected = neighbourhood_quality(x, layout, 8)
    order = np.random.default_rng(seed).permutation(50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout_quality, "BLOCK_BYTES", 8 * 50 * rows)
        assert neighbourhood_quality(x[order], layout[order], 8) == pytest.approx(expected, rel=1e-12)


def test_copies_count_once_in_the_quality_of_a_layout():
    x, layout = points(120, 6), points(120, 2, seed=1)
    again = np.arange(0, 120, 3)
    both = np.concatenate([x, x[again] * np.float32(1 + 1e-7)]), np.concatenate([layout, layout[again]])
    assert neighbourhood_quality(*both, 10) == pytest.approx(neighbourhood_quality(x, layout, 10), rel=1e-12)
