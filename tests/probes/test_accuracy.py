"""Wilson intervals against worked values."""

import numpy as np
import pytest
from scipy.stats import binomtest

from lwexplain.probes.accuracy import accuracy_of, wilson_interval


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
