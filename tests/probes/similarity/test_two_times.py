"""How alike one stage is at two times: the number that the probe gives, without its interval."""

import math

import numpy as np
import pytest

from lwexplain.errors import ProbeError
from lwexplain.probes.similarity.probe import similarity_matrix
from lwexplain.probes.similarity.two_times import linear_cka


@pytest.mark.parametrize(("n", "first", "second"), [(60, 8, 5), (40, 90, 90), (30, 5, 200)])
def test_it_equals_the_probe_s_for_narrow_and_wide_features(n, first, second):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, first)).astype(np.float32) + 40
    y = (0.5 * x[:, :1] + rng.normal(size=(n, second))).astype(np.float32)
    expected = similarity_matrix([x], [y])[0][0, 0]
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


def test_it_is_1_for_the_same_features_turned_and_scaled():
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert linear_cka(x, (3 * x @ turned).astype(np.float32)) == pytest.approx(1, abs=1e-6)


def test_it_is_undefined_where_features_do_not_vary_and_refused_where_they_do_not_fit():
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert math.isnan(linear_cka(x, np.ones_like(x)))
    for other in (x[:10], x[:3]):
        with pytest.raises(ProbeError, match="same four or more"):
            linear_cka(x if len(other) > 3 else other, other)
    with pytest.raises(ProbeError, match="NaN"):
        linear_cka(x, np.full_like(x, np.nan))
