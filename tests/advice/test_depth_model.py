import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexplain.advice import depth_model
from lwexplain.advice.depth_model import (
    DepthModel,
    SourceModel,
    is_enough,
    log_error_ratio,
    shipped_model,
    spread_of,
)
from lwexplain.errors import AdviceError

MODEL = SourceModel(spread=0.03, spread_slope=0.5, width=1.6, caution=0.2, slope=0.5, reach=2.0)
ACCURACY = np.array([0.6, 0.8, 0.9])


def test_the_gap_of_the_probe_counts_the_more_the_less_a_stage_sees():
    """Worked by hand: errors 0.4, 0.2 and 0.1, fields 4, 16 and 40 pixels in images of 16."""
    ratio = log_error_ratio(MODEL, ACCURACY, np.array([4.0, 16.0, 40.0]), 16)
    assert ratio == pytest.approx([0.5 * np.log(4) * np.log(8), 0.5 * np.log(2) * np.log(2), 0])


def test_a_stage_that_sees_far_beyond_the_image_or_is_read_as_well_as_the_last_one_needs_nothing_more():
    assert log_error_ratio(MODEL, ACCURACY, np.array([32.0, 50.0, 100.0]), 16).tolist() == [0, 0, 0]
    assert log_error_ratio(MODEL, np.array([0.9, 0.95, 0.9]), np.array([3.0, 5.0, 7.0]), 16).tolist() == [0, 0, 0]


def test_without_receptive_fields_the_gap_of_the_probe_counts_in_full():
    assert log_error_ratio(MODEL, ACCURACY, None, 1) == pytest.approx([np.log(4), np.log(2), 0])


def test_a_perfect_probe_is_no_infinite_gap():
    ratio = log_error_ratio(MODEL, np.array([0.5, 1.0]), np.array([4.0, 8.0]), 16)
    assert np.isfinite(ratio).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 0.999), min_size=2, max_size=6), st.integers(8, 64))
def test_each_resample_is_treated_alone_and_the_full_depth_is_the_reference(accuracy, side):
    rows = np.array([accuracy, accuracy[::-1]])
    field = np.linspace(3, 100, len(accuracy))
    both = log_error_ratio(MODEL, rows, field, side)
    assert np.array_equal(both[0], log_error_ratio(MODEL, rows[0], field, side))
    assert (both[:, -1] == 0).all()
    assert (both >= 0).all()


def test_the_spread_grows_with_the_distance_from_the_full_depth():
    assert spread_of(MODEL, np.array([0.4, -0.4, 0.0])) == pytest.approx([0.23, 0.23, 0.03])


def test_what_is_enough_is_judged_with_caution():
    """Worked by hand: errors 0.12, 0.104 and 0.1, spreads 0.03 + 0.5 * log ratio, caution 1 and 0."""
    log_error = np.log([0.12, 0.104, 0.1])
    bold, careful = (replace(MODEL, caution=caution) for caution in (0.0, 1.0))
    assert is_enough(bold, log_error, 0.005).tolist() == [False, True, True]
    assert is_enough(careful, log_error, 0.005).tolist() == [False, False, True]
    loss = 0.1 * (np.exp(np.log(1.04) * 1.5 + 0.03) - 1)
    assert is_enough(careful, log_error, loss + 1e-6)[1]
    assert not is_enough(careful, log_error, loss - 1e-6)[1]


def test_depths_that_are_predicted_to_be_as_good_as_the_best_are_enough_at_any_tolerance():
    assert is_enough(MODEL, np.log([0.2, 0.1, 0.1]), 0.0).tolist() == [False, True, True]


def test_the_shipped_coefficients_are_those_of_many_tasks_and_survive_json():
    model = shipped_model()
    assert DepthModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model
    assert len(model.tasks) >= 16
    for source in ("head", "linear_probe"):
        found = model.of(source)
        assert 0 <= found.caution <= 1
        assert found.spread > 0
        assert found.width > 0
    assert model.linear_probe.reach is not None
    assert model.head.reach is None


def test_damaged_coefficients_are_a_clear_error(tmp_path, monkeypatch):
    path = tmp_path / "depth_model.json"
    path.write_text('{"head": {}}')
    monkeypatch.setattr(depth_model, "COEFFICIENTS", path)
    shipped_model.cache_clear()
    with pytest.raises(AdviceError, match="install lwexplain anew"):
        shipped_model()
    shipped_model.cache_clear()
