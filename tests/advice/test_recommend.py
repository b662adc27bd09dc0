import json

import numpy as np
import pytest

from lwexplain.advice.curve import bootstrap_curve, decision_source, depth_curve
from lwexplain.advice.question import Question
from lwexplain.advice.recommend import VERDICTS, recommend
from lwexplain.advice.rules import stop_training
from lwexplain.errors import AdviceError

PLATEAU = [0.5, 0.7, 0.85, 0.9, 0.9005, 0.9, 0.9005]


def test_a_plateau_is_stopped_at_where_it_begins(make_table):
    advice = recommend(make_table(PLATEAU), Question(tolerance=0.01))
    assert (advice.verdict, advice.stage, advice.depth) == ("stop_here", "s4", 4)
    assert advice.depth_interval[0] <= 4 <= advice.depth_interval[1]
    assert "s4" in advice.reason
    assert "points" in advice.reason


def test_a_curve_that_rises_to_the_end_asks_for_more_depth(make_table):
    advice = recommend(make_table([0.3, 0.5, 0.7, 0.9]))
    assert (advice.verdict, advice.depth) == ("go_deeper", 4)


def test_a_last_stage_that_gains_little_but_more_than_nothing_keeps_the_full_depth(make_table):
    advice = recommend(make_table([0.5, 0.88, 0.888], n=1000))
    assert (advice.verdict, advice.depth) == ("use_full_depth", 3)


@pytest.mark.parametrize("seed", range(20))
def test_random_guessing_is_no_signal(make_table, seed):
    rng = np.random.default_rng(seed)
    advice = recommend(make_table(list(rng.normal(0.1, np.sqrt(0.09 / 2000), 9)), n=2000, seed=seed))
    assert advice.verdict == "no_signal"
    assert advice.stage is advice.depth is advice.expected_accuracy is None
    assert "no signal" in advice.reason


def test_heads_below_the_probe_on_their_own_features_are_called_too_weak(make_table):
    table = make_table([0.5, 0.6, 0.6], others={("linear_probe_accuracy", "val"): [0.5, 0.7, 0.8]})
    assert recommend(table).verdict == "heads_too_weak"
    table = make_table([0.5, 0.6, 0.6], others={("linear_probe_accuracy", "val"): [0.5, 0.59, 0.6]})
    assert recommend(table).verdict == "stop_here"


def test_where_probes_still_rise_with_the_heads_depth_comes_before_the_heads(make_table):
    rising = {("linear_probe_accuracy", "val"): [0.4, 0.65, 0.85]}
    assert recommend(make_table([0.3, 0.5, 0.7], others=rising)).verdict == "go_deeper"
    flat = {("linear_probe_accuracy", "val"): [0.84, 0.85, 0.85]}
    assert recommend(make_table([0.3, 0.5, 0.7], others=flat)).verdict == "heads_too_weak"


def test_heads_that_guess_on_features_that_a_probe_can_read_are_no_missing_signal(make_table):
    advice = recommend(make_table([0.1, 0.1, 0.1], others={("linear_probe_accuracy", "val"): [0.5, 0.7, 0.8]}))
    assert (advice.verdict, advice.depth) == ("heads_too_weak", None)
    assert "a linear probe on the features reaches 80.00 %" in advice.reason


def test_a_larger_tolerance_never_asks_for_more_depth(make_table):
    table = make_table([0.6, 0.8, 0.85, 0.88, 0.89, 0.895])
    depths = [recommend(table, Question(tolerance)).depth for tolerance in (0.0, 0.005, 0.02, 0.05, 0.2, 0.5)]
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == 6
    assert depths[-1] <= 2


def test_the_decision_does_not_look_at_test(make_table):
    table = make_table(PLATEAU)
    before = recommend(table).depth
    rows = (table["split"] == "test") & (table["metric"] == "head_accuracy")
    table.loc[rows, "value"] = np.linspace(1.0, 0.0, rows.sum())
    after = recommend(table)
    assert after.depth == before
    assert after.expected_accuracy == pytest.approx(table[rows & (table["depth"] == before)]["value"].iloc[0])


def test_costs_are_ratios_to_the_full_depth_and_none_where_not_measured(make_table):
    costs = {("parameters", "none"): [10, 20, 30, 40, 50, 60, 80], ("flops", "none"): [1, 2, 3, 4, 5, 6, 8]}
    advice = recommend(make_table(PLATEAU, others=costs), Question(tolerance=0.01))
    assert advice.params_ratio == 0.5
    assert advice.flops_ratio == 0.5
    assert advice.latency_ratio is None


def test_layer_wise_runs_are_decided_by_heads_and_others_by_the_linear_probe(make_table):
    assert decision_source(make_table([0.5, 0.6])) == "head"
    assert decision_source(make_table([0.5, 0.6], source="linear_probe", strategy="bp")) == "linear_probe"


def test_the_same_table_gives_the_same_advice_and_it_is_plain_json(make_table):
    first, second = recommend(make_table(PLATEAU)), recommend(make_table(PLATEAU))
    assert first == second
    keys = {
        "verdict", "stage", "depth", "depth_interval", "tolerance", "expected_accuracy", "expected_accuracy_interval",
        "full_accuracy", "params_ratio", "flops_ratio", "latency_ratio", "reason",
    }  # fmt: skip
    assert keys <= set(json.loads(json.dumps(first.to_dict(), allow_nan=False)))
    assert first.verdict in VERDICTS


def test_a_table_without_evidence_is_a_clear_error(make_table):
    table = make_table(PLATEAU)
    table.attrs["patterns"] = {}
    with pytest.raises(AdviceError, match="probe 'linear'"):
        recommend(table)
    table.attrs.clear()
    with pytest.raises(AdviceError, match=r"as lw\.analyze"):
        recommend(table)


def test_depth_curve_lists_depths_in_order_with_intervals(make_table):
    curve = depth_curve(make_table([0.5, 0.6, 0.7]).sample(frac=1, random_state=1), source="head")
    assert curve["depth"].tolist() == [1, 2, 3]
    assert (curve["low"] < curve["accuracy"]).all()
    assert (curve["high"] > curve["accuracy"]).all()


def test_the_bootstrap_is_paired(make_table):
    """Two stages right on exactly the same samples never differ in any resample, whatever n is."""
    curve = bootstrap_curve(make_table([0.7, 0.7], n=50))
    assert np.array_equal(curve.resampled[:, 0], curve.resampled[:, 1])


def test_bootstrap_spread_is_the_binomial_standard_error(make_table):
    curve = bootstrap_curve(make_table([0.8], n=2000))
    assert curve.resampled[:, 0].std() == pytest.approx(np.sqrt(0.8 * 0.2 / 2000), rel=0.1)
    assert curve.resampled[:, 0].mean() == pytest.approx(0.8, abs=0.002)


def hits(shares, n=6000):
    rng = np.random.default_rng(0)
    order = rng.uniform(size=n)
    return [order < share for share in shares]


def test_training_goes_on_while_it_pays_and_stops_on_the_plateau():
    assert stop_training(hits([0.5]), 0.1) is None
    assert stop_training(hits([0.5, 0.7, 0.8]), 0.1) is None
    assert "the last 2 stages together gain 0.00 points" in stop_training(hits([0.5, 0.7, 0.8, 0.801, 0.8]), 0.1, 0.005)


def test_training_on_noise_stops_at_once_and_says_so():
    assert "on val after 1 stage, by chance 10.0%" in stop_training(hits([0.1]), 0.1)
    assert "on val after 2 stages, by chance 10.0%" in stop_training(hits([0.1, 0.105]), 0.1)


def test_training_goes_on_through_one_weak_stage_between_two_good_ones():
    assert stop_training(hits([0.8, 0.85, 0.849, 0.865]), 0.1, 0.005) is None
    assert "gain 0.37 points on val, less than 0.5 each" in stop_training(hits([0.8, 0.85, 0.86, 0.854]), 0.1, 0.005)


def test_a_larger_gain_asked_of_a_stage_stops_earlier():
    stages = hits([0.8, 0.83, 0.85, 0.86, 0.862])
    stopped = [
        next((k for k in range(1, 6) if stop_training(stages[:k], 0.1, gain) is not None), 6)
        for gain in (0.001, 0.009, 0.02, 0.03)
    ]
    assert stopped == [6, 5, 4, 3]
