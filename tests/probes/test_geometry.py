"""The geometry of features equals its definitions, scikit-dimension's TwoNN, and what is known of simple shapes."""

import math

import numpy as np
import pytest
import skdim
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexplain.errors import ProbeError
from lwexplain.probes import splits
from lwexplain.probes.base import PROBES, StageData
from lwexplain.probes.geometry import Geometry


def stage_of(features, labels=None, **fields):
    labels = np.arange(len(features)) % 2 if labels is None else labels
    return StageData("s", 1, {"val": features}, {"val": labels}, ["a", "b", "c"], **fields)


def rows_of(stage):
    return {row.metric: row for row in Geometry().measure(stage)}


def values_of(stage):
    return {metric: row.value for metric, row in rows_of(stage).items()}


@pytest.mark.parametrize(("n", "d"), [(200, 12), (20, 30)])
def test_indices_of_the_spectrum_equal_their_definitions(n, d):
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(n, d)) * np.arange(1, d + 1) + 3).astype(np.float32)
    singular = np.linalg.svd(x.astype(np.float64) - x.astype(np.float64).mean(0), compute_uv=False)
    singular = singular[singular > 1e-6]
    p, variance = singular / singular.sum(), singular**2
    found = values_of(stage_of(x))
    assert found["effective_rank"] == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert found["participation_ratio"] == pytest.approx(variance.sum() ** 2 / (variance**2).sum(), rel=1e-6)
    directions = next(k for k in range(1, d + 1) if variance[:k].sum() >= 0.99 * variance.sum())
    assert found["saturation"] == directions / d


@pytest.mark.parametrize("d", [3, 40])
def test_intrinsic_dimension_equals_scikit_dimension(d):
    x = np.random.default_rng(d).normal(size=(157, d)).astype(np.float32)
    expected = skdim.id.TwoNN(method="mle").fit(x.astype(np.float64)).dimension_
    assert values_of(stage_of(x))["intrinsic_dimension"] == pytest.approx(expected, rel=1e-6)


def dimension_of(x):
    return rows_of(stage_of(x.astype(np.float32)))["intrinsic_dimension"]


COPIES = {
    "twice, behind the others": lambda x, rng: np.concatenate([x, x[:120]]),
    "twice, beside the originals": lambda x, rng: np.repeat(x, 1 + (np.arange(300) < 120), axis=0),
    "three times, in any order": lambda x, rng: rng.permutation(np.concatenate([x, x[:90], x[:90]])),
    "rounded otherwise": lambda x, rng: np.concatenate([x, x[:120] * (1 + 1e-7 * rng.normal(size=(120, 5)))]),
    "one of them fifty times": lambda x, rng: np.concatenate([x, np.repeat(x[:1], 50, axis=0)]),
}


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
@pytest.mark.parametrize("kind", COPIES)
def test_copies_count_once_in_the_intrinsic_dimension(kind, scale):
    x = np.random.default_rng(1).normal(size=(300, 5)) * scale
    alone, copied = dimension_of(x), dimension_of(COPIES[kind](x, np.random.default_rng(2)))
    assert copied.value == pytest.approx(alone.value, rel=1e-4)
    assert (copied.n, alone.n) == (300, 300)
    assert alone.note == ""
    assert "copies of others and count once" in copied.note


def test_the_share_of_copies_is_said():
    x = np.random.default_rng(1).normal(size=(60, 4))
    x[7] = x[3]
    row = dimension_of(x)
    assert row.value == pytest.approx(dimension_of(np.delete(x, 7, axis=0)).value, rel=1e-9)
    assert row.note == "1 of 60 samples (1.7%) is a copy of another and counts once"


def test_the_intrinsic_dimension_of_a_plane_is_two_in_any_space():
    rng = np.random.default_rng(0)
    plane = rng.uniform(size=(3000, 2)) @ rng.normal(size=(2, 30))
    row = rows_of(stage_of(plane))["intrinsic_dimension"]
    assert row.value == pytest.approx(2, rel=0.06)


def test_directions_of_equal_variance_all_count():
    corners = np.concatenate([np.eye(8), -np.eye(8)]) * 4 + 100
    found = values_of(stage_of(corners))
    assert found["effective_rank"] == pytest.approx(8)
    assert found["participation_ratio"] == pytest.approx(8)
    assert found["saturation"] == 1


def test_a_line_has_one_direction():
    line = np.linspace(0, 1, 50)[:, None] ** 2 * np.ones(6) + 1000
    found = values_of(stage_of(line))
    assert found["effective_rank"] == pytest.approx(1)
    assert found["participation_ratio"] == pytest.approx(1)
    assert found["saturation"] == 1 / 6


def test_constant_features_add_no_direction():
    x = np.random.default_rng(4).normal(size=(80, 5))
    wider = np.concatenate([x, np.full((80, 5), 0.1)], axis=1)
    narrow, wide = values_of(stage_of(x)), values_of(stage_of(wider))
    assert wide["effective_rank"] == pytest.approx(narrow["effective_rank"])
    assert wide["participation_ratio"] == pytest.approx(narrow["participation_ratio"])
    assert wide["saturation"] == narrow["saturation"] / 2


def test_features_that_do_not_vary_have_no_geometry():
    for row in Geometry().measure(stage_of(np.full((300, 4), 0.1))):
        assert math.isnan(row.value)
        assert "undefined" in row.note
        assert row.low is None


def test_which_indices_carry_an_interval(make_stage):
    rows = rows_of(make_stage())
    assert list(rows) == ["effective_rank", "participation_ratio", "saturation", "intrinsic_dimension"]
    for metric in ("effective_rank", "participation_ratio"):
        assert rows[metric].low < rows[metric].high
    assert rows["saturation"].low is rows["intrinsic_dimension"].low is None


def test_the_effective_rank_of_few_samples_a_feature_carries_none():
    x = np.random.default_rng(0).normal(size=(100, 11))
    few, enough = rows_of(stage_of(x))["effective_rank"], rows_of(stage_of(x[:, :10]))["effective_rank"]
    assert few.low is None
    assert few.note == "no interval: fewer than 10 samples for each feature"
    assert enough.low is not None
    assert enough.note == ""


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.integers(1, 2000), scale=st.floats(1e-2, 1e2))
def test_order_block_size_rotation_and_scale_do_not_matter(seed, block, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 6)) * [5, 3, 2, 1, 1, 0.5]
    labels = rng.permutation(np.repeat([0, 1, 2], [5, 25, 10]))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    order = rng.permutation(40)
    expected = values_of(stage_of(x, labels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "BLOCK_BYTES", block)
        assert values_of(stage_of(scale * x[order] @ rotation, labels[order])) == pytest.approx(expected, rel=1e-6)


def test_too_few_samples_are_refused():
    with pytest.raises(ProbeError, match="at least three"):
        Geometry().measure(stage_of(np.eye(2)))
    with pytest.raises(ProbeError, match="more memory"):
        Geometry().measure(stage_of(np.eye(5), memory_bytes=10))


def test_the_probe_is_registered():
    assert isinstance(PROBES.create("geometry"), Geometry)
