"""Principal components, Procrustes alignment, and how far points moved."""

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA

from lwexplain.probes.embedding.layout import align, layout_shift, principal_components


@pytest.mark.parametrize("shape", [(40, 6), (10, 30), (5, 5)])
def test_components_equal_scikit_learns_up_to_sign(shape):
    x = np.random.default_rng(0).normal(size=shape) + 4
    got, expected = principal_components(x, 3), PCA(3).fit_transform(x)
    np.testing.assert_allclose(np.abs(got), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(principal_components(x[::-1], 3)[::-1], got, atol=1e-8)


def test_components_beyond_the_rank_are_zero():
    assert principal_components(np.arange(6.0)[:, None], 2)[:, 1].tolist() == [0.0] * 6
    few = principal_components(np.random.default_rng(0).normal(size=(3, 9)), 5)
    np.testing.assert_allclose(few[:, 2:], 0.0, atol=1e-6)
    assert not principal_components(np.ones((4, 3)), 2).any()


def test_alignment_undoes_rotation_mirroring_and_shift_but_not_scale():
    rng = np.random.default_rng(1)
    target = rng.normal(size=(30, 2)) * [3, 1]
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])
    np.testing.assert_allclose(align(target @ turn + [5, -7], target), target, atol=1e-10)
    doubled = align(2 * target @ turn, target)
    np.testing.assert_allclose(doubled - doubled.mean(0), 2 * (target - target.mean(0)), atol=1e-10)
    other = rng.normal(size=(30, 2))
    rotation, _ = orthogonal_procrustes(other - other.mean(0), target - target.mean(0))
    np.testing.assert_allclose(align(other, target), (other - other.mean(0)) @ rotation + target.mean(0))


def test_the_shift_is_measured_in_spreads():
    rng = np.random.default_rng(2)
    layout, other = rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2))
    assert layout_shift(layout, layout) == 0
    spread = np.sqrt(np.square(layout - layout.mean(0)).sum(1).mean())
    assert layout_shift(layout + np.array([3.0, 4.0]), layout) == pytest.approx(5 / spread)
    assert layout_shift(7 * layout, 7 * other) == pytest.approx(layout_shift(other, layout))
    assert layout_shift(layout, other) == pytest.approx(np.sqrt(np.pi / 2), abs=0.05)  # two normal clouds
    assert layout_shift(np.zeros((3, 2)), np.zeros((3, 2))) == 0
