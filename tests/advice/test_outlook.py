import numpy as np
import pytest
from made_tables import table_of

from lwexplain.advice.curve import bootstrap_curve
from lwexplain.advice.depth_model import SourceModel
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.outlook import outlook_of

HEADS = SourceModel(spread=0.0, spread_slope=0.0, width=1.645, caution=0.2)
PROBES = SourceModel(spread=0.02, spread_slope=0.2, width=1.645, caution=0.2, slope=0.5, reach=2.0)


def outlook(accuracy, model=HEADS, tolerance=0.005, *, side=None, fields=None, **options):
    source = options.setdefault("source", "head" if model is HEADS else "linear_probe")
    if fields is not None:
        options["others"] = (options.get("others") or {}) | {("receptive_field", "none"): fields}
    table = table_of(accuracy, **options)
    if side:
        table.attrs["input_shape"] = [1, side, side]
    return outlook_of(Evidence.of(table), bootstrap_curve(table, source), model, tolerance)


def test_local_heads_are_taken_at_their_word():
    found = outlook([0.5, 0.7, 0.9])
    assert found.predicted == pytest.approx([0.5, 0.7, 0.9], abs=1e-3)
    assert found.expected == pytest.approx([0.49, 0.69, 0.89], abs=1e-3)  # test, in these tables 0.01 lower
    assert found.sufficient.tolist() == [False, False, True]
    assert found.best == 2


def test_a_probe_far_below_the_last_one_is_enough_where_the_stage_sees_the_whole_image():
    seeing = outlook([0.6, 0.7, 0.9], PROBES, 0.02, side=8, fields=[3, 30, 60])
    assert seeing.predicted[1] == pytest.approx(0.9, abs=1e-3)
    assert seeing.sufficient.tolist() == [False, True, True]
    blind = outlook([0.6, 0.7, 0.9], PROBES, 0.02, side=60, fields=[3, 30, 60])
    assert blind.sufficient.tolist() == [False, False, True]


def test_where_fields_or_the_size_of_images_are_unknown_the_probe_alone_decides():
    found = outlook([0.6, 0.7, 0.9], PROBES, side=None, fields=[3, 30, 60])
    assert found.predicted == pytest.approx([0.6, 0.7, 0.9], abs=1e-3)
    assert not found.field_known
    assert outlook([0.6, 0.7, 0.9], PROBES, side=8, fields=[3, 30, 60]).field_known


def test_the_whole_network_is_known_by_its_own_head():
    others = {("head_accuracy", "val"): [np.nan, np.nan, 0.95], ("head_accuracy", "test"): [np.nan, np.nan, 0.94]}
    found = outlook([0.6, 0.7, 0.9], PROBES, side=8, fields=[3, 30, 60], others=others)
    assert found.full == 0.94
    assert found.predicted[-1] == pytest.approx(0.95)
    assert found.expected[-1] == pytest.approx(0.94)


def test_a_cut_network_is_measured_against_the_own_head_of_the_full_one():
    others = {("head_accuracy", "val"): [np.nan, np.nan, 0.95]}
    found = outlook([0.6, 0.899, 0.9], HEADS, source="linear_probe", others=others)
    assert found.predicted == pytest.approx([0.6, 0.899, 0.95], abs=1e-3)
    assert found.sufficient.tolist() == [False, False, True]


def test_the_interval_holds_what_the_sample_size_and_the_spread_leave_open():
    few, many = outlook([0.8], n=100), outlook([0.8], n=10_000)
    assert (few.high - few.low)[0] == pytest.approx(2 * 1.645 * np.sqrt(0.79 * 0.21 / 100), rel=0.02)
    assert (many.high - many.low)[0] < (few.high - few.low)[0] / 5
    loose = SourceModel(spread=0.3, spread_slope=0.0, width=1.645, caution=0.2)
    table = table_of([0.8], n=10_000)
    wide = outlook_of(Evidence.of(table), bootstrap_curve(table), loose, 0.005)
    assert (wide.high - wide.low)[0] == pytest.approx(2 * 1.645 * 0.3 * 0.21, rel=0.02)


def test_sufficiency_is_the_share_of_draws_and_never_falls_with_the_tolerance():
    chances = [outlook([0.8, 0.89, 0.9], tolerance=tolerance).sufficiency for tolerance in (0.0, 0.01, 0.05, 0.2)]
    assert (np.diff(chances, axis=0) >= 0).all()
    assert chances[-1].tolist() == [1, 1, 1]


def test_the_interval_of_depths_spans_the_choices_of_single_draws():
    sure = outlook([0.3, 0.9, 0.3])
    assert sure.interval == (2, 2)
    low, high = outlook([0.5, 0.89, 0.893, 0.897, 0.9], n=500).interval
    assert low < high
