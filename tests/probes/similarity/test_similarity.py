"""CKA equals its definition by full kernel matrices, is 1 for what is alike and 0 for what is independent."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, StageData
from lwexplain.probes.jackknife import jackknife_groups
from lwexplain.probes.similarity import hsic
from lwexplain.probes.similarity.probe import Similarity, similarity_matrix


def direct_hsic(k, l):  # noqa: E741
    """HSIC_1 (Song et al. 2012, eq. 5), term by term."""
    n, ones = len(k), np.ones(len(k))
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    first = np.trace(k @ l)
    second = (ones @ k @ ones) * (ones @ l @ ones) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * (ones @ k @ l @ ones)
    return (first + second - third) / (n * (n - 3))


def direct_cka(k, l):  # noqa: E741
    return direct_hsic(k, l) / math.sqrt(direct_hsic(k, k) * direct_hsic(l, l))


def linear(x):
    return x.astype(np.float64) @ x.astype(np.float64).T


def rbf(x, bandwidth=0.8):
    distances = pdist(x.astype(np.float64))
    return np.exp(-(squareform(distances) ** 2) / (2 * (bandwidth * np.median(distances)) ** 2))


def related_features(seed=0, n=90, widths=(4, 7, 5)):
    """Features that share some directions, with a large mean."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    mixed = [shared @ rng.normal(size=(3, d)) + 0.7 * rng.normal(size=(n, d)) + 20 for d in widths]
    return [x.astype(np.float32) for x in mixed]


def stages_of(features, **fields):
    labels = np.arange(len(features[0])) % 3
    return [
        StageData(f"s{i}", i, {"val": x}, {"val": labels}, ["a", "b", "c"], **fields)
        for i, x in enumerate(features, start=1)
    ]


def rows_of(stages, metric, **options):
    found = Similarity(**options).measure_all(stages)
    return {(name, row.class_): row for name, rows in found.items() for row in rows if row.metric == metric}


@pytest.mark.parametrize(("metric", "kernel"), [("cka_linear", linear), ("cka_rbf", rbf)])
def test_every_pair_equals_the_definition_by_full_matrices(metric, kernel):
    features = related_features()
    rows = rows_of(stages_of(features), metric)
    assert len(rows) == 9
    for i, x in enumerate(features, start=1):
        for j, y in enumerate(features, start=1):
            row = rows[f"s{i}", f"s{j}"]
            assert row.value == pytest.approx(direct_cka(kernel(x), kernel(y)), rel=1e-6)
            assert row.n == 90


def test_a_stage_is_as_similar_to_itself_as_can_be():
    for metric in ("cka_linear", "cka_rbf"):
        rows = rows_of(stages_of(related_features()), metric)
        assert all(rows[s, s].value == pytest.approx(1, abs=1e-12) for s in ("s1", "s2", "s3"))


def test_the_jackknife_leaves_out_a_tenth_of_each_class():
    x, y = related_features(widths=(4, 6))
    stages = stages_of([x, y])
    row = rows_of(stages, "cka_linear")["s1", "s2"]
    kept = [jackknife_groups(stages[0].labels["val"], 10) != group for group in range(10)]
    replicates = np.array([direct_cka(linear(x[k]), linear(y[k])) for k in kept])
    half = 2.2621571627409915 * math.sqrt(0.9 * ((replicates - replicates.mean()) ** 2).sum())
    centre = 10 * row.value - 9 * replicates.mean()
    assert row.low == pytest.approx(centre - half, rel=1e-6)
    assert row.high == pytest.approx(min(centre + half, 1.0), rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.integers(1, 3000), scale=st.floats(1e-2, 1e2), shift=st.floats(-50, 50))
def test_rotation_scale_shift_order_and_block_size_do_not_matter(seed, block, scale, shift):
    rng = np.random.default_rng(seed)
    x, y = (each.astype(np.float64) for each in related_features(seed, 40, (4, 5)))
    order, rotation = rng.permutation(40), np.linalg.qr(rng.normal(size=(4, 4)))[0]
    expected = similarity_matrix([x], [y])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hsic, "BLOCK_BYTES", block)
        found = similarity_matrix([scale * x[order] @ rotation + shift], [y[order]], memory_bytes=400_000 + 100 * block)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_independent_features_have_no_similarity_however_wide_they_are():
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found.append(similarity_matrix([rng.normal(size=(50, 100))], [rng.normal(size=(50, 100))]))
    mean = np.mean(found, axis=0).ravel()
    error = np.std(found, axis=0).ravel() / math.sqrt(40)
    assert (np.abs(mean) < 3 * error).all()
    assert (np.abs(mean) < 0.02).all()  # the biased estimator gives about 2/3 here
    assert np.min(found) < 0


def test_the_rbf_kernel_is_taken_of_a_stratified_sub_sample_and_says_so():
    features = related_features(n=300, widths=(3, 4))
    stages = stages_of(features)
    rows = rows_of(stages, "cka_rbf", samples=60)
    row = rows["s1", "s2"]
    assert row.n == 60
    assert "60 of 300 val samples" in row.note
    assert "0.8 times the median distance" in row.note
    assert row.value == pytest.approx(direct_cka(rbf(features[0]), rbf(features[1])), abs=0.15)
    assert rows_of(stages, "cka_linear", samples=60)["s1", "s2"].n == 300


def test_stages_too_wide_for_the_memory_lose_the_interval_and_then_the_exact_value():
    features = related_features(n=300, widths=(4, 60))
    narrow = rows_of(stages_of(features, memory_bytes=300_000), "cka_linear")
    assert narrow["s1", "s1"].low is not None
    assert narrow["s1", "s2"].low is None
    assert "no interval" in narrow["s1", "s2"].note
    assert narrow["s1", "s2"].value == pytest.approx(direct_cka(linear(features[0]), linear(features[1])), rel=1e-6)

    tight = stages_of(features, memory_bytes=100_000)
    row = rows_of(tight, "cka_linear")["s1", "s2"]
    assert row.n < 300
    assert "too many features for all samples" in row.note
    assert row.value == pytest.approx(narrow["s1", "s2"].value, abs=0.25)


def test_the_sub_sampled_linear_value_is_that_of_the_sub_sample():
    x, y = related_features(n=24, widths=(4, 60))
    row = rows_of(stages_of([x, y], memory_bytes=80_000), "cka_linear")["s2", "s1"]
    assert row.n == 24
    assert "too many features" in row.note
    assert row.value == pytest.approx(direct_cka(linear(x), linear(y)), rel=1e-6)


def test_features_that_do_not_vary_have_no_similarity():
    features = [*related_features(widths=(4,)), np.full((90, 3), 0.1, dtype=np.float32)]
    for metric in ("cka_linear", "cka_rbf"):
        rows = rows_of(stages_of(features), metric)
        assert rows["s1", "s1"].value == pytest.approx(1)
        for pair in (("s1", "s2"), ("s2", "s1"), ("s2", "s2")):
            assert math.isnan(rows[pair].value)
            assert "the features of s2 do not vary" in rows[pair].note
            assert rows[pair].low is None


def test_samples_that_are_all_equally_far_apart_have_no_similarity():
    for metric in ("cka_linear", "cka_rbf"):
        row = rows_of(stages_of([np.eye(30), *related_features(n=30, widths=(4,))]), metric)["s1", "s2"]
        assert math.isnan(row.value)
        assert "equally far apart" in row.note


def test_two_runs_are_compared_stage_by_stage():
    first, second = related_features(1, widths=(3, 4)), related_features(1, widths=(5, 6, 7))
    of_linear, of_rbf = similarity_matrix(first, second)
    assert of_linear.shape == of_rbf.shape == (2, 3)
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            assert of_linear[i, j] == pytest.approx(direct_cka(linear(x), linear(y)), rel=1e-6)
            assert of_rbf[i, j] == pytest.approx(direct_cka(rbf(x), rbf(y)), rel=1e-6)


def test_what_does_not_fit_together_is_refused():
    stages = stages_of(related_features())
    stages[1].labels["val"] = stages[1].labels["val"][::-1].copy()
    with pytest.raises(ProbeError, match="do not hold the same val samples"):
        Similarity().measure_all(stages)
    with pytest.raises(ProbeError, match="at least four"):
        Similarity().measure_all(stages_of(related_features(n=3)))
    with pytest.raises(ProbeError, match="the same samples"):
        similarity_matrix([np.eye(5)], [np.eye(6)])
    with pytest.raises(ProbeError, match="NaN"):
        similarity_matrix([np.full((5, 2), np.nan)], [np.eye(5)])
    with pytest.raises(ProbeError, match="bandwidth"):
        Similarity(bandwidth=0)


def test_the_probe_is_registered():
    assert isinstance(PROBES.create("similarity"), Similarity)


def test_a_stage_with_values_that_are_not_finite_takes_nothing_from_the_others(make_stage):
    stages = [make_stage(f"s{depth}", depth) for depth in (1, 2, 3)]
    expected = Similarity().measure_all([stages[0], stages[2]])
    stages[1].features["val"][5, 0] = np.inf
    found = Similarity().measure_all(stages)
    assert "NaN or infinite" in str(found.pop("s2"))
    assert found == expected
