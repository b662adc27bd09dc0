"""The indices of each sample equal scikit-learn's and direct ones, and do not depend on how ties are ordered."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples

from lwexplain.probes import copies, distances
from lwexplain.probes.base import StageData
from lwexplain.probes.separability.pairwise import pairwise_indices, sorted_samples


def measured(x, y):
    """Positions of the samples, and their indices."""
    stage = StageData("s", 1, {"val": x}, {"val": y}, [str(k) for k in range(max(y) + 1)])
    samples = sorted_samples(stage, "val")
    return samples.positions, pairwise_indices(stage, "val", samples)


def share_of_own(d, y, i, k):
    """Expected share of the own class when equally near samples are put in random order, by its definition."""
    others = np.delete(np.arange(len(y)), i)
    to_others, same = d[i, others].round(9), y[others] == y[i]
    last = np.sort(to_others)[k - 1]
    nearer, level = to_others < last, to_others == last
    return (same[nearer].sum() + (k - nearer.sum()) * same[level].mean()) / k


@pytest.mark.parametrize("block_bytes", [8, 2000, 2**22])
@pytest.mark.parametrize("kind", ["normal", "grid", "copies", "few"])
def test_indices_equal_the_references(monkeypatch, kind, block_bytes):
    monkeypatch.setattr(distances, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(len(kind))
    y = rng.permutation(np.repeat(np.arange(4), [17, 8, 30, 1] if kind != "few" else [3, 1, 2, 2]))
    x = rng.normal(size=(len(y), 2)) + 0.7 * y[:, None]
    if kind == "grid":
        x = np.round(1.5 * x)
    if kind == "grid":  # many samples at a place, all of them kept
        monkeypatch.setattr(copies, "COLLAPSED_LEAST", 0)
        monkeypatch.setattr(copies, "COLLAPSED_SHARE", 0.0)
    if kind == "copies":  # behind the others, with the same labels
        again = rng.choice(np.flatnonzero(y < 3), 25)  # a class all of whose samples coincide would have collapsed
        positions, got = measured(np.concatenate([x, x[again]]), np.concatenate([y, y[again]]))
    else:
        positions, got = measured(x, y)
    d = cdist(x, x)
    assert got.k == min(10, len(y) - 1)
    np.testing.assert_allclose(got.silhouette[:, 0], silhouette_samples(x, y)[positions], rtol=1e-6, atol=1e-9)
    for index, k in ((got.agreement, 1), (got.purity, got.k)):
        expected = [share_of_own(d, y, i, k) for i in positions]
        np.testing.assert_allclose(index[:, 0], expected, rtol=1e-9, atol=1e-12)
    np.fill_diagonal(d, np.inf)
    margins = []
    for i in positions:
        hit, miss = d[i, y == y[i]].min(), d[i, y != y[i]].min()
        margins.append(np.nan if np.isinf(hit) else 0.0 if hit + miss == 0 else (miss - hit) / (miss + hit))
    np.testing.assert_allclose(got.margin[:, 0], margins, rtol=1e-6, atol=1e-12)


def test_samples_without_any_difference_share_in_proportion():
    _, got = measured(np.zeros((20, 3)), np.repeat([0, 1], [15, 5]))
    torch.testing.assert_close(got.agreement[:, 0], torch.tensor([14 / 19] * 15 + [4 / 19] * 5, dtype=torch.float64))
    torch.testing.assert_close(got.purity, got.agreement, equal_nan=True)
    assert not got.silhouette[:, 0].any()
    assert not got.margin[:, 0].any()
    assert got.dsi == [0.0, 0.0]


def test_classes_far_apart_are_at_the_upper_bounds():
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = np.repeat([0, 1, 2], 20)
    x[:, 0] += 1e6 * y
    _, got = measured(x, y)
    assert got.agreement.nan_to_num(1.0).min() == got.purity.nan_to_num(1.0).min() == 1.0
    assert got.silhouette.nan_to_num(1.0).min() > 1 - 1e-4
    assert got.margin.nan_to_num(1.0).min() > 1 - 1e-4
    assert got.dsi == [1.0, 1.0, 1.0]


def test_the_margin_knows_no_scale_and_is_positive_where_the_nearest_sample_agrees():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 3)), rng.integers(0, 3, 80)
    _, got = measured(x, y)
    _, scaled = measured(1e-3 * x + 5, y)
    torch.testing.assert_close(scaled.margin, got.margin, rtol=1e-8, atol=1e-10, equal_nan=True)
    assert torch.equal(got.margin > 0, got.agreement == 1)
