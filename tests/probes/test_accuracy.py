"""Accuracies with their intervals against scikit-learn, scipy, worked values and simulated populations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn.metrics import recall_score

from lwexplain.class_balance import is_uneven, unevenness
from lwexplain.intervals import mean_share_interval
from lwexplain.probes.accuracy import accuracies_of, accuracy_of, balanced_accuracy_of, balanced_rows, wilson_interval


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7), (450, 500), (1, 2)])
def test_wilson_interval_equals_scipys(k, n):
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_samples_say_nothing():
    assert wilson_interval(0.5, 0) == (0.0, 1.0)


def test_accuracy_row():
    row = accuracy_of("x_accuracy", np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), "test", "why")
    assert (row.metric, row.value, row.split, row.n, row.note) == ("x_accuracy", 0.75, "test", 4, "why")
    assert row.low is not None
    assert row.low < 0.75


def test_accuracy_of_all_and_of_each_class_that_has_samples():
    predicted, labels = np.array([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 2])
    rows = accuracies_of("x_accuracy", predicted, labels, "val", ["a", "b", "c", "nobody"], "why")
    assert rows[0] == accuracy_of("x_accuracy", predicted, labels, "val", "why")
    assert [(row.class_, row.n, row.value) for row in rows[1:]] == [("a", 1, 1.0), ("b", 1, 1.0), ("c", 3, 2 / 3)]
    for row in rows[1:]:
        assert (row.low, row.high) == wilson_interval(row.value, row.n)


# ---------------------------------------------------------------------- balanced accuracy


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 60))
def test_balanced_accuracy_is_scikit_learns_mean_recall(seed, classes, n):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    row = balanced_accuracy_of("x_accuracy", predicted, labels, "val", [str(k) for k in range(classes)])
    recall = recall_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert (row.metric, row.n) == ("x_balanced_accuracy", n)
    assert row.value == pytest.approx(recall)
    assert row.low is not None
    assert row.high is not None
    assert 0 <= row.low <= row.value <= row.high <= 1


def test_a_class_without_samples_does_not_count_in_balanced_accuracy():
    row = balanced_accuracy_of("x_accuracy", np.array([0, 0, 1]), np.array([0, 0, 0]), "val", ["a", "b"])
    assert row.value == pytest.approx(2 / 3)


def test_half_of_the_rare_positives_found_and_no_false_alarm():
    """20 of 1,000 are positive: accuracy hides behind 98 % what balanced accuracy shows."""
    labels = np.repeat([0, 1], [980, 20])
    predicted = np.where(np.arange(1000) < 990, 0, 1)
    row = balanced_accuracy_of("x_accuracy", predicted, labels, "val", ["no", "yes"], "why")
    assert row.value == 0.75
    assert row.low == pytest.approx(0.75 - 1.96 * 0.25 / np.sqrt(20), abs=0.03)
    assert row.note == "why; uneven classes: from 2.0 % to 98.0 % of the samples, so that accuracy alone misleads"


@pytest.mark.parametrize(
    ("counts", "uneven"),
    [([50, 50], False), ([70, 30], False), ([80, 20], True), ([10] * 9 + [4], True), ([10] * 9 + [6], False),
     ([100], False), ([], False), ([10, 10, 0], True)],
)  # fmt: skip
def test_classes_are_uneven_where_one_is_far_from_an_even_share(counts, uneven):
    assert is_uneven(counts) == uneven
    assert bool(unevenness(counts)) == uneven


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        ([0.9, 0.9], [250, 250]),
        ([0.7] * 10, [5] * 10),
        (np.linspace(0.4, 0.98, 10), [50] * 10),
        ([0.99] * 10, [50] * 10),
        ([0.98, 0.5], [980, 20]),
        ([0.98, 0.8], [450, 50]),
        ([0.95, 0.9, 0.8, 0.7, 0.5], [300, 100, 50, 30, 20]),
        (np.linspace(0.4, 0.98, 100), [10] * 100),
    ],
)
def test_the_interval_of_balanced_accuracy_holds_the_truth_in_95_percent(shares, sizes):
    """A little less where one small class decides: few values are possible then."""
    rng = np.random.default_rng(0)
    draws = rng.binomial(sizes, shares, size=(2000, len(sizes)))
    intervals = [mean_share_interval(right.tolist(), sizes) for right in draws]
    covered = np.mean([low <= np.mean(shares) <= high for low, high in intervals])
    assert 0.91 <= covered <= 0.975


@pytest.mark.parametrize("n", [50, 500, 5000])
def test_the_interval_of_an_accuracy_holds_the_truth_in_95_percent(n):
    """Exact, no simulation; a mean over accuracies, since one alone swings with the whole numbers that are possible."""
    counts = np.arange(n + 1)
    bounds = np.array([wilson_interval(k / n, n) for k in counts])
    truths = np.linspace(0.55, 0.99, 45)
    covered = [binom.pmf(counts, n, p)[(bounds[:, 0] <= p) & (p <= bounds[:, 1])].sum() for p in truths]
    assert 0.94 <= np.mean(covered) <= 0.96
    assert min(covered) > 0.9


def rows_of(metric, predicted, labels, classes):
    """Rows of the long table, as a probe's measurements become them."""
    return [
        {"stage": "s", "depth": 1, "split": row.split, "metric": row.metric, "class": row.class_, "value": row.value,
         "low": row.low, "high": row.high, "n": row.n, "seed": 0, "probe": "x", "note": row.note}
        for row in accuracies_of(metric, predicted, labels, "val", classes, "why")
    ]  # fmt: skip


def test_every_accuracy_of_all_classes_gets_a_balanced_one_beside():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    predicted = np.where(np.arange(100) % 7 == 0, 0, labels)
    classes = ["a", "b", "c"]
    (found,) = balanced_rows(rows_of("x_accuracy", predicted, labels, classes), classes)
    row = balanced_accuracy_of("x_accuracy", predicted, labels, "val", classes, "why")
    assert found["metric"] == "x_balanced_accuracy"
    assert (found["value"], found["low"], found["high"], found["n"], found["note"]) == (
        row.value, row.low, row.high, 100, row.note,
    )  # fmt: skip
    assert (found["stage"], found["probe"], found["class"]) == ("s", "x", None)


def test_a_probe_that_gives_it_itself_or_does_not_measure_all_classes_gets_none():
    labels, classes = np.repeat([0, 1], 5), ["a", "b"]
    rows = rows_of("x_accuracy", labels, labels, classes)
    assert balanced_rows(rows[:-1], classes) == []
    assert balanced_rows(rows[:1], classes) == []
    assert balanced_rows([*rows, rows[0] | {"metric": "x_balanced_accuracy"}], classes) == []
    assert balanced_rows([row | {"n": None} for row in rows], classes) == []
