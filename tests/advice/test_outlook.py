import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tables import table_of
from scipy.stats import binom, binomtest

from lwexplain.advice.curve import bootstrap_curve
from lwexplain.advice.depth_model import SourceModel
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.outlook import accuracy_interval, outlook_of

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
    wilson = binomtest(79, 100).proportion_ci(0.9, method="wilson")
    assert (few.low[0], few.high[0]) == pytest.approx((wilson.low, wilson.high), abs=1e-6)
    assert (many.high - many.low)[0] < (few.high - few.low)[0] / 5
    loose = SourceModel(spread=0.3, spread_slope=0.0, width=1.645, caution=0.2)
    table = table_of([0.8], n=10_000)
    wide = outlook_of(Evidence.of(table), bootstrap_curve(table), loose, 0.005)
    assert (wide.high - wide.low)[0] == pytest.approx(2 * 1.645 * 0.3 * 0.21, rel=0.02)
    assert wide.deviation[0] == pytest.approx(0.3 * 0.21)


def test_sufficiency_is_the_share_of_draws_and_never_falls_with_the_tolerance():
    chances = [outlook([0.8, 0.89, 0.9], tolerance=tolerance).sufficiency for tolerance in (0.0, 0.01, 0.05, 0.2)]
    assert (np.diff(chances, axis=0) >= 0).all()
    assert chances[-1].tolist() == [1, 1, 1]


def test_the_interval_of_depths_spans_the_choices_of_single_draws():
    sure = outlook([0.3, 0.9, 0.3])
    assert sure.interval == (2, 2)
    low, high = outlook([0.5, 0.89, 0.893, 0.897, 0.9], n=500).interval
    assert low < high


# ---------------------------------------------------------------------- predictions that are possible


def own(val, stages, test=None):
    """Rows of the network's own head, which only the last stage has."""
    last = [np.nan] * (stages - 1)
    return {("head_accuracy", "val"): [*last, val], ("head_accuracy", "test"): [*last, val if test is None else test]}


@pytest.mark.parametrize(("classes", "chance"), [(2, 0.5), (10, 0.1)])
@pytest.mark.parametrize("fields", [None, [3, 5, 9]])
def test_no_depth_is_expected_to_do_worse_than_guessing(classes, chance, fields):
    """A probe that tells little, of a network whose own head errs more than its last probe: the gap of the logarithms
    alone would predict an accuracy below chance, or below 0."""
    steep = SourceModel(spread=0.3, spread_slope=0.5, width=1.7, caution=0.2, slope=2.0, reach=3.0)
    found = outlook([chance + 0.02, 0.7, 0.95], steep, side=28, fields=fields, classes=classes, others=own(0.75, 3))
    for values in (found.predicted, found.expected, found.low, found.high, found.drawn):
        assert (values >= chance - 1e-12).all()
        assert (values <= 1).all()
    assert (found.low <= found.expected).all()
    assert (found.expected <= found.high).all()
    assert found.predicted[0] == pytest.approx(chance, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.5, 1), min_size=1, max_size=5), st.floats(0.5, 1), st.booleans())
def test_predictions_of_two_classes_lie_between_chance_and_one(probes, head, seen):
    fields = [3.0 * 2**depth for depth in range(len(probes))] if seen else None
    others = own(head, len(probes), test=1 - head)
    found = outlook(probes, PROBES, side=28, fields=fields, classes=2, n=200, others=others)
    least = min(0.5, 1 - head)  # on test the whole network itself may do worse than guessing
    assert (found.predicted >= 0.5 - 1e-12).all()
    assert (found.expected >= least - 1e-12).all()
    assert (found.low >= least - 1e-12).all()
    assert (found.high <= 1).all()


def test_measured_heads_below_the_guess_stay_as_they_were_measured():
    found = outlook([0.4, 0.9], classes=2)
    assert found.predicted[0] == pytest.approx(0.4, abs=1e-3)
    assert not found.sufficient[0]


@pytest.mark.parametrize("fields", [None, [3, 5, 200, 300]])
def test_a_last_probe_that_collapsed_does_not_excuse_the_early_ones(fields):
    """Probes .60/.80/.90/.55, the own head .90: the first probe is far from what the network reaches."""
    found = outlook([0.60, 0.80, 0.90, 0.55], PROBES, side=28, fields=fields, others=own(0.9, 4))
    assert found.sufficient.tolist() == [False, False, True, True]
    assert found.predicted[2:] == pytest.approx([0.9, 0.9], abs=1e-3)
    assert (found.predicted[:2] < 0.88).all()
    assert found.full == 0.9


def test_a_last_probe_that_collapsed_is_not_the_measure_where_the_own_head_is_unknown_either():
    found = outlook([0.60, 0.80, 0.90, 0.55], PROBES)
    assert found.sufficient.tolist() == [False, False, True, True]
    assert found.predicted == pytest.approx([0.6, 0.8, 0.9, 0.9], abs=1e-3)


def test_a_probe_better_than_the_own_head_is_the_measure_of_the_gap():
    found = outlook([0.6, 0.8, 0.95], PROBES, others=own(0.9, 3))
    assert found.predicted == pytest.approx([1 - 0.1 * 8, 1 - 0.1 * 4, 0.9], abs=2e-3)


# ---------------------------------------------------------------------- intervals that cover


def test_thirty_of_thirty_leave_room_for_errors():
    low, high = accuracy_interval(np.array([1.0]), np.array([0.0]), 30)
    assert low[0] == pytest.approx(binomtest(30, 30).proportion_ci(0.9, method="wilson").low)
    assert high[0] == 1
    found = outlook([1.0], n=30, others={("head_accuracy", "test"): [1.0]})
    assert 0.90 < found.low[0] < 0.93


@pytest.mark.parametrize("n", [50, 500, 5000])
def test_ninety_percent_intervals_of_measured_accuracies_cover(n):
    """Exact, no simulation. Single accuracies swing with the whole numbers that are possible, their mean does not."""
    counts = np.arange(n + 1)
    low, high = accuracy_interval(counts / n, np.zeros(n + 1), n)
    covered = [binom.pmf(counts, n, p)[(low <= p) & (p <= high)].sum() for p in np.linspace(0.6, 0.995, 80)]
    assert 0.885 <= np.mean(covered) <= 0.93
    at_99 = binom.pmf(counts, n, 0.99)[(low <= 0.99) & (high >= 0.99)].sum()
    assert 0.87 <= at_99 <= 0.95


@pytest.mark.parametrize(("truth", "n", "spread"), [(0.9, 500, 0.1), (0.97, 300, 0.3), (0.95, 2000, 0.3)])
def test_ninety_percent_intervals_cover_what_is_measured_and_retrained(truth, n, spread):
    """A network retrained from another seed: its error lies around that of the analyzed one, which is measured on n."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        measured = rng.binomial(n, truth) / n
        other = 1 - (1 - truth) * np.exp(spread * rng.standard_normal())
        low, high = accuracy_interval(np.array([measured]), np.array([1.645 * spread * (1 - measured)]), n)
        inside += low[0] <= other <= high[0]
    assert 0.86 <= inside / 2000 <= 0.95
