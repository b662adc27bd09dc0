"""Wilson intervals against worked values."""

import numpy as np
import pytest
from scipy.stats import binomtest

from lwexplain.probes.accuracy import accuracies_of, accuracy_of, wilson_interval


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 7), (450, 500), (1, 2)])
def test_wilson_interval_equals_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_no_samples_say_nothing() -> None:
    assert wilson_interval(0.5, 0) == (0.0, 1.0)


def test_accuracy_row() -> None:
    row = accuracy_of("x_accuracy", np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), "test", "why")
    assert (row.metric, row.value, row.split, row.n, row.note) == ("x_accuracy", 0.75, "test", 4, "why")
    assert row.low is not None
    assert row.low < 0.75


def test_accuracy_of_all_and_of_each_class_that_has_samples() -> None:
    predicted, labels = np.array([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 2])
    rows = accuracies_of("x_accuracy", predicted, labels, "val", ["a", "b", "c", "nobody"], "why")
    assert rows[0] == accuracy_of("x_accuracy", predicted, labels, "val", "why")
    assert [(row.class_, row.n, row.value) for row in rows[1:]] == [("a", 1, 1.0), ("b", 1, 1.0), ("c", 3, 2 / 3)]
    for row in rows[1:]:
        assert (row.low, row.high) == wilson_interval(row.value, row.n)
