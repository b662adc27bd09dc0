"""Separability metrics agree with scikit-learn and with direct sums over all pairs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

from lwexplain.errors import ProbeError
from lwexplain.probes import distances
from lwexplain.probes.base import StageData
from lwexplain.probes.separability import Separability


def measure(features: np.ndarray, labels: np.ndarray, classes: int | None = None) -> dict[str, float]:
    return {row.metric: row.value for row in rows_of(features, labels, classes)}


def rows_of(features: np.ndarray, labels: np.ndarray, classes: int | None = None) -> list:
    names = [str(k) for k in range(classes or int(max(labels)) + 1)]
    stage = StageData("s", 1, {"val": features}, {"val": np.asarray(labels)}, names)
    return Separability().measure(stage)


def pairwise(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))


def direct_gdv(x: np.ndarray, y: np.ndarray) -> float:
    z = 0.5 * (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    d, classes = pairwise(z), np.unique(y)
    inside = []
    for k in classes:
        block = d[np.ix_(y == k, y == k)]
        inside.append(block[np.triu_indices(len(block), 1)].mean())
    between = [d[np.ix_(y == k, y == m)].mean() for k in classes for m in classes if k < m]
    return (np.mean(inside) - np.mean(between)) / math.sqrt(x.shape[1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_bytes", [8 * 100 * 7, 2**25])
def test_values_equal_the_references(make_stage, monkeypatch, seed: int, block_bytes: int) -> None:
    monkeypatch.setattr(distances, "BLOCK_BYTES", block_bytes)
    stage = make_stage(seed=seed, classes=2 + seed, dims=3 + 4 * seed, spread=1.5 + seed)
    x, y = stage.features["val"], stage.labels["val"]
    got = measure(x, y)
    wide = x.astype(np.float64)
    d = pairwise(x)
    np.fill_diagonal(d, np.inf)
    overall = wide.mean(0)
    between = sum((y == k).sum() * ((wide[y == k].mean(0) - overall) ** 2).sum() for k in np.unique(y))
    within = sum(((wide[y == k] - wide[y == k].mean(0)) ** 2).sum() for k in np.unique(y))
    expected = {
        "separability_index": np.mean(y[d.argmin(1)] == y),
        "fisher_ratio": between / within,
        "silhouette": silhouette_score(wide, y),
        "davies_bouldin": davies_bouldin_score(wide, y),
        "calinski_harabasz": calinski_harabasz_score(wide, y),
        "gdv": direct_gdv(x, y),
    }
    assert list(got) == list(expected)
    for metric, value in expected.items():
        assert got[metric] == pytest.approx(value, rel=1e-6), metric
    neighbours = NearestNeighbors(n_neighbors=1).fit(wide).kneighbors(return_distance=False)[:, 0]
    assert got["separability_index"] == pytest.approx(np.mean(y[neighbours] == y))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 6), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_neither_order_nor_shift_nor_scale_matter(seed: int, k: int, dims: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.full(2 + rng.integers(8), c) for c in range(k)])
    x = rng.normal(size=(len(y), dims)) + y[:, None]
    x[rng.integers(len(y))] = x[rng.integers(len(y))]
    order = rng.permutation(len(y))
    first = measure(x, y)
    second = measure(shift + scale * x[order], y[order])
    for metric, value in first.items():
        assert second[metric] == pytest.approx(value, rel=1e-6, abs=1e-6), metric


def test_two_classes_that_are_points_are_perfectly_separated() -> None:
    x = np.repeat([[0.0, 5.0, 1.0], [2.0, 4.0, -1.0]], 10, axis=0)
    y = np.repeat([0, 1], 10)
    got = {row.metric: row for row in rows_of(x, y)}
    assert got["gdv"].value == pytest.approx(-1.0, abs=1e-9)
    assert got["separability_index"].value == 1.0
    assert got["separability_index"].low == pytest.approx(0.8389, abs=1e-4)
    assert got["separability_index"].high == 1.0
    assert got["silhouette"].value == pytest.approx(1.0)
    assert got["davies_bouldin"].value == pytest.approx(0.0)
    assert got["fisher_ratio"].value == math.inf
    assert got["calinski_harabasz"].value == math.inf
    assert "coincide" in got["fisher_ratio"].note


def test_random_labels_are_not_separated() -> None:
    rng = np.random.default_rng(1)
    got = measure(rng.normal(size=(2000, 20)), rng.integers(0, 2, 2000))
    assert got["gdv"] == pytest.approx(0.0, abs=5e-3)
    assert got["separability_index"] == pytest.approx(0.5, abs=0.05)
    assert got["silhouette"] == pytest.approx(0.0, abs=5e-3)


def test_equally_near_neighbours_count_by_their_share() -> None:
    x = np.zeros((4, 3), dtype=np.float32)
    rows = {row.metric: row for row in rows_of(x, np.array([0, 0, 0, 1]))}
    assert rows["separability_index"].value == pytest.approx((3 * 2 / 3 + 0) / 4)
    assert (rows["gdv"].value, rows["gdv"].note) == (0.0, "every feature is constant")
    assert rows["silhouette"].value == 0.0
    assert rows["davies_bouldin"].value == math.inf
    assert math.isnan(rows["fisher_ratio"].value)


def test_constant_features_and_single_samples_are_noted() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 3))
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    plain = {row.metric: row for row in rows_of(x, y)}
    padded = {row.metric: row for row in rows_of(np.c_[x, np.full(9, 3.7)], y)}
    assert padded["gdv"].value == pytest.approx(plain["gdv"].value, rel=1e-9)
    assert "1 of 4 features are constant" in padded["gdv"].note
    assert "1 classes of one sample" in plain["gdv"].note
    assert plain["silhouette"].value == pytest.approx(silhouette_score(x, y))


@pytest.mark.parametrize(
    ("features", "labels", "classes", "message"),
    [
        (np.ones((3, 2)), [1, 1, 1], 2, "one class only .'1'."),
        (np.ones((3, 2)), [0, 1, 1], 4, "no val sample of class '2', '3'"),
        (np.array([[1.0], [np.nan], [2.0]]), [0, 1, 1], 2, "1 of 3 val samples .* NaN"),
        (np.ones((3, 2)), [0, 1, 2], 2, "labels run from 0 to 2, but there are 2 classes"),
        (np.ones((3, 2)), [0, 1], 2, "3 val features but 2 labels"),
        (np.ones((0, 2)), [], 2, "'val' is empty"),
        (np.ones(3), [0, 1, 1], 2, r"shape \(3,\)"),
    ],
)
def test_unusable_data_is_refused(features, labels, classes: int, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        rows_of(features, np.array(labels, dtype=np.int64), classes)


def test_a_missing_split_is_named(make_stage) -> None:
    with pytest.raises(ProbeError, match="no features for split 'ood'; present: train, val, test"):
        Separability(split="ood").measure(make_stage())
