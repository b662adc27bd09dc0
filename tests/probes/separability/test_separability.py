"""The rows of the separability probe: values, intervals, numbers of samples and notes; and that order is no matter."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import ks_2samp
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_samples, silhouette_score

from lwexplain.errors import ProbeError
from lwexplain.probes import distances, subsample
from lwexplain.probes.base import StageData
from lwexplain.probes.returned import check_results
from lwexplain.probes.scatter_ratio import UNCERTAIN
from lwexplain.probes.separability.probe import MOST_PAIRS, Separability, separability_index

OF_SAMPLES = ["separability_index", "knn_purity", "silhouette", "hypothesis_margin", "dsi"]
OF_ALL = [*OF_SAMPLES, "gdv", "fisher_ratio", "calinski_harabasz", "separation_law", "davies_bouldin"]


def rows_of(x, y, classes=None, **fields):
    """Rows by metric and class; class_ is None for all samples together."""
    names = [str(k) for k in range(classes or int(max(y)) + 1)]
    stage = StageData("s", 1, {"val": x}, {"val": np.asarray(y)}, names, **fields)
    rows = Separability().measure(stage)
    assert check_results(stage, rows) == rows
    return {(row.metric, row.class_): row for row in rows}


def without_uncertain(note):
    """A note less what depends on the order of the samples, which are dealt into jackknife groups by it."""
    return note.replace(UNCERTAIN, "")


def near(value, rel=1e-6):
    return pytest.approx(value, rel=rel, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block_bytes", [8 * 100 * 7, 2**25])
def test_values_equal_the_references(make_stage, monkeypatch, seed, block_bytes):
    monkeypatch.setattr(distances, "BLOCK_BYTES", block_bytes)
    stage = make_stage(seed=seed, classes=2 + seed, dims=3 + 4 * seed, spread=1.5 + seed)
    x, y = stage.features["val"].astype(np.float64), stage.labels["val"]
    got = rows_of(stage.features["val"], y)
    d = cdist(x, x)
    first = y[(d + np.diag(np.full(len(y), np.inf))).argsort(1)[:, :10]] == y[:, None]
    assert got["silhouette", None].value == near(silhouette_score(x, y))
    assert got["davies_bouldin", None].value == near(davies_bouldin_score(x, y))
    assert got["calinski_harabasz", None].value == near(calinski_harabasz_score(x, y))
    assert got["separability_index", None].value == near(first[:, 0].mean())
    assert got["knn_purity", None].value == near(first.mean())
    statistics = []
    for k in np.unique(y):
        of_class, name = y == k, str(k)
        assert got["separability_index", name].value == near(first[of_class, 0].mean())
        assert got["knn_purity", name].value == near(first[of_class].mean())
        assert got["silhouette", name].value == near(silhouette_samples(x, y)[of_class].mean())
        inside = d[np.ix_(of_class, of_class)][np.triu_indices(of_class.sum(), 1)]
        statistics.append(ks_2samp(inside, d[np.ix_(of_class, ~of_class)].ravel()).statistic)
        assert got["dsi", name].value == near(statistics[-1])
        assert got["hypothesis_margin", name].n == of_class.sum()
    assert got["dsi", None].value == near(np.mean(statistics))


def test_there_is_a_row_for_all_samples_each_class_and_each_pair(make_stage):
    stage = make_stage(classes=3)
    rows = Separability().measure(stage)
    counts = Counter(row.metric for row in rows)
    assert counts == dict.fromkeys(OF_SAMPLES, 4) | {
        "gdv": 1,
        "fisher_ratio": 1 + 3 + 3,
        "calinski_harabasz": 1,
        "separation_law": 1,
        "davies_bouldin": 1 + 3,
    }
    sizes = dict(zip(stage.classes, np.bincount(stage.labels["val"]), strict=True))
    for row in rows:
        expected = sum(sizes[name] for name in row.class_.split(" | ")) if row.class_ else sum(sizes.values())
        assert row.n == expected
        assert row.split == "val"
        assert row.note == ("k=10" if row.metric == "knn_purity" else "")
        if row.metric in ("dsi", "davies_bouldin"):
            assert (row.low, row.high) == (None, None)
        elif row.metric in OF_SAMPLES:
            assert row.low <= row.value <= row.high
        else:  # of the population's value, which a sample's is not centred on
            assert row.low < row.high
    assert {row.class_ for row in rows if "|" in (row.class_ or "")} == {
        "class 0 | class 1",
        "class 0 | class 2",
        "class 1 | class 2",
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5), st.integers(1, 6), st.floats(-10, 10), st.floats(1e-3, 1e3))
def test_neither_order_nor_shift_nor_scale_matter(seed, k, dims, shift, scale):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.full(2 + rng.integers(8), c) for c in range(k)])
    x = rng.normal(size=(len(y), dims)) + y[:, None]
    order = rng.permutation(len(y))
    first = rows_of(x, y)
    second = rows_of(scale * (shift + x[order]), y[order])
    assert first.keys() == second.keys()
    for key, row in first.items():
        assert second[key].value == pytest.approx(row.value, rel=1e-6, abs=1e-6), key
        assert without_uncertain(second[key].note) == without_uncertain(row.note)


def test_two_classes_that_are_points_are_perfectly_separated():
    got = rows_of(np.repeat([[0.0, 5.0, 1.0], [2.0, 4.0, -1.0]], 10, axis=0), np.repeat([0, 1], 10))
    assert got["separability_index", None].value == 1.0
    assert 0.6 < got["separability_index", None].low < 0.8
    assert got["knn_purity", None].value == pytest.approx(0.9)
    assert got["knn_purity", None].note == "k=10; classes of at most 10 samples, which cannot reach 1: 2"
    assert got["knn_purity", "0"].note == "k=10; only 10 samples; no interval: fewer than 20 samples"
    for metric in ("silhouette", "hypothesis_margin", "dsi"):
        assert got[metric, None].value == pytest.approx(1.0)
        assert got[metric, "1"].value == pytest.approx(1.0)
    assert got["gdv", None].value == pytest.approx(-1.0, abs=1e-9)
    assert got["davies_bouldin", None].value == pytest.approx(0.0)
    assert got["separation_law", None].value == 0.0
    for key in ((None), "0", "0 | 1"):
        assert got["fisher_ratio", key].value == math.inf
        assert "coincide" in got["fisher_ratio", key].note


def test_random_labels_are_not_separated():
    rng = np.random.default_rng(1)
    got = rows_of(rng.normal(size=(1500, 20)), rng.integers(0, 2, 1500))
    assert got["separability_index", None].value == pytest.approx(0.5, abs=0.05)
    assert got["knn_purity", None].value == pytest.approx(0.5, abs=0.03)
    for metric in ("silhouette", "hypothesis_margin", "gdv"):
        assert got[metric, None].value == pytest.approx(0.0, abs=5e-3)
    assert got["dsi", None].value < 0.03
    assert got["fisher_ratio", None].value < 5e-3


def test_features_that_do_not_vary_have_values_or_say_why_not():
    got = rows_of(np.full((4, 3), 3.7, dtype=np.float32), np.array([0, 0, 0, 1]))
    assert got["separability_index", None].value == pytest.approx((3 * 2 / 3 + 0) / 4)
    assert got["gdv", None].value == got["silhouette", None].value == got["dsi", None].value == 0.0
    assert got["gdv", None].note == "every feature is constant"
    assert got["davies_bouldin", None].value == math.inf
    for metric in ("fisher_ratio", "calinski_harabasz", "separation_law"):
        assert math.isnan(got[metric, None].value)
        assert got[metric, None].note == "undefined: the features do not vary"


def test_a_class_of_one_sample_is_noted():
    x = np.random.default_rng(0).normal(size=(9, 3))
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    got = rows_of(x, y)
    assert got["silhouette", None].value == near(silhouette_score(x, y))
    assert got["silhouette", "2"].value == 0.0
    few = "no interval: fewer than 20 samples"
    assert got["silhouette", "2"].note == f"a class of one sample counts as 0; {few}"
    assert got["hypothesis_margin", None].n == 8
    assert math.isnan(got["hypothesis_margin", "2"].value)
    assert math.isnan(got["dsi", "2"].value)
    assert got["dsi", None].value == near((got["dsi", "0"].value + got["dsi", "1"].value) / 2)
    alone = "a class of one sample is left out"
    assert got["hypothesis_margin", None].note == f"{alone}; {few}"
    assert got["hypothesis_margin", "2"].note == got["dsi", None].note == got["dsi", "2"].note == alone
    assert got["fisher_ratio", "2"].value == math.inf
    assert got["fisher_ratio", "2"].note == "infinite: the class has one sample"
    assert got["fisher_ratio", None].low is None


def test_classes_without_a_sample_are_left_out_with_a_note(make_stage):
    stage = make_stage(seed=2)
    x, y = stage.features["val"], stage.labels["val"]
    plain, spaced = rows_of(x, y), rows_of(x, 2 * y, classes=8)
    assert {(metric, None) for metric in OF_ALL} <= spaced.keys()
    assert len(spaced) == len(plain)
    for metric in OF_ALL:
        assert spaced[metric, None].value == plain[metric, None].value
        assert spaced[metric, None].note.endswith("no val sample of class '1', '3', '5' and 2 more: left out")
    assert spaced["fisher_ratio", "2 | 4"].value == plain["fisher_ratio", "1 | 2"].value


def test_a_sub_sample_is_noted_where_distances_are_taken(make_stage, monkeypatch):
    monkeypatch.setattr(subsample, "PAIRWISE_SAMPLES", 40)
    stage = make_stage(seed=4)
    rows = Separability().measure(stage)
    n = len(stage.labels["val"])
    for row in rows:
        sampled = row.metric in (*OF_SAMPLES, "gdv")
        assert (f"stratified sub-sample of 40 of {n} val samples" in row.note) == sampled
        if row.class_ is None:
            assert row.n == (40 if sampled else n)
    again = Separability().measure(make_stage(seed=4))
    assert rows == again


def test_of_many_classes_the_closest_pairs_have_rows():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(21), 4)
    got = rows_of(rng.normal(size=(84, 3)) + y[:, None], y)
    pairs = [key for key in got if key[0] == "fisher_ratio" and "|" in (key[1] or "")]
    assert len(pairs) == MOST_PAIRS == 190
    assert got[pairs[0]].note == "one of the 190 closest of 210 pairs"
    assert ("fisher_ratio", "0 | 20") not in got


@pytest.mark.parametrize(
    ("features", "labels", "classes", "message"),
    [
        (np.ones((3, 2)), [1, 1, 1], 2, "one class only .'1'."),
        (np.array([[1.0], [np.nan], [2.0]]), [0, 1, 1], 2, "1 of 3 val samples .* NaN"),
        (np.ones((3, 2)), [0, 1, 2], 2, "labels run from 0 to 2, but there are 2 classes"),
        (np.ones((3, 2)), [0, 1], 2, "3 val features but 2 labels"),
        (np.ones((0, 2)), [], 2, "'val' is empty"),
        (np.ones(3), [0, 1, 1], 2, r"shape \(3,\)"),
    ],
)
def test_unusable_data_is_refused(features, labels, classes, message):
    with pytest.raises(ProbeError, match=message):
        rows_of(features, np.array(labels, dtype=np.int64), classes)


def test_a_missing_split_is_named(make_stage):
    with pytest.raises(ProbeError, match="no features for split 'ood'; present: train, val, test"):
        Separability(split="ood").measure(make_stage())


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6])
def test_copies_say_nothing_of_random_labels(times, scale):
    rng = np.random.default_rng(0)
    x, y = scale * rng.normal(size=(300, 5)), np.arange(300) % 3
    again = np.tile(np.arange(120), times - 1)
    order = rng.permutation(300 + len(again))
    copied = (np.concatenate([x, x[again] * (1 + 1e-7 * rng.normal(size=(len(again), 5)))])).astype("f")[order]
    alone, found = rows_of(x.astype("f"), y), rows_of(copied, np.concatenate([y, y[again]])[order])
    for metric in (*OF_SAMPLES, "gdv"):
        assert found[metric, None].value == pytest.approx(alone[metric, None].value, abs=2e-4), metric
        assert found[metric, None].n == 300
        assert f"{len(again)} of {len(order)} samples" in found[metric, None].note
        assert alone[metric, None].note == ("k=10" if metric == "knn_purity" else "")


def test_copies_of_other_labels_are_no_neighbours_of_each_other():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 5)), rng.integers(0, 3, 600)
    other = (y[:200] + 1) % 3
    found = rows_of(np.concatenate([x, x[:200]]).astype("f"), np.concatenate([y, other]))
    assert found["separability_index", None].value == pytest.approx(1 / 3, abs=0.06)
    assert found["knn_purity", None].value == pytest.approx(1 / 3, abs=0.03)
    assert found["hypothesis_margin", None].value > -0.2  # -1 for each that is its own nearest miss
    assert found["separability_index", None].n == 800  # one of each label


def test_the_reason_of_an_undefined_index_is_the_true_one():
    x = np.random.default_rng(0).normal(size=(3, 5))
    single = rows_of(x, np.array([0, 1, 2]))
    assert math.isnan(single["calinski_harabasz", None].value)
    assert single["calinski_harabasz", None].note == "undefined: as many classes as samples"
    assert single["fisher_ratio", None].note == "infinite: every class has one sample"
    same = rows_of(np.repeat(x, 4, axis=0), np.repeat([0, 1, 2], 4))
    assert same["fisher_ratio", None].note == "infinite: the samples of every class coincide"
    means = rows_of(np.array([[1.0], [-1.0], [2.0], [-2.0]]), np.array([0, 0, 1, 1]))
    assert means["separation_law", None].note == "infinite: all class means coincide"
    assert means["davies_bouldin", None].note == "infinite: the means of two classes coincide"


@pytest.mark.parametrize("copies", [0, 8])
def test_the_index_alone_is_the_same_row(copies):
    rng = np.random.default_rng(copies)
    y = np.arange(90) % 4
    x = (rng.normal(size=(90, 5)) + y[:, None]).astype(np.float32)
    x[:copies], y[: copies // 2] = x[40 : 40 + copies], y[40 : 40 + copies // 2]
    stage = StageData("s", 1, {"val": x}, {"val": y}, [*"abcde"])
    rows = [row for row in Separability().measure(stage) if row.metric == "separability_index" and row.class_ is None]
    assert separability_index(StageData("s", 1, {"val": x}, {"val": y}, [*"abcde"])) == rows[0]
