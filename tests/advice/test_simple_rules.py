import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lwexplain.advice.evidence import Evidence
from lwexplain.advice.simple_rules import (
    SIMPLE_RULES,
    accuracy_curve,
    accuracy_metric,
    always_full,
    effective_depth,
    gain_below_threshold,
    gdv_knee,
    middle,
    one_standard_error,
    probe_share_of_best,
    receptive_field_border,
    rules_beside,
    saturation_tail,
    separability_plateau,
    separation_law_break,
)

NAN = np.nan
READS = {
    "probe at 98 % of best": "linear_probe_accuracy",
    "one standard error": "linear_probe_accuracy",
    "nearest-class-mean effective depth": "ncm_accuracy",
    "saturation tail": "saturation",
    "receptive-field border": "beyond_border",
    "knee of GDV": "gdv",
    "plateau of separability index": "separability_index",
    "break of separation law": "separation_law",
    "gain below threshold": "linear_probe_accuracy",
}
SEPARATION = set(READS) - {"saturation tail", "receptive-field border"}  # rules on how well classes are told apart


def evidence_of(n=3000, stages=None, **curves):
    """Evidence of val (of no split for beyond_border), each metric on n samples."""
    split = {"beyond_border": "none"}
    by_key = {(name, split.get(name, "val")): np.asarray(curve, float) for name, curve in curves.items()}
    depth = stages or len(next(iter(by_key.values())))
    return Evidence([f"s{k}" for k in range(1, depth + 1)], "bp", 0.1, by_key, dict.fromkeys(by_key, n))


def probe(accuracy, n=3000):
    return evidence_of(n, linear_probe_accuracy=accuracy)


def law(logarithm):
    return evidence_of(separation_law=np.exp(logarithm))


def whole(curve):
    """Every metric has the same curve."""
    return evidence_of(**dict.fromkeys(READS.values(), curve))


@pytest.mark.parametrize(("stages", "kept"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (9, 4)])
def test_full_keeps_all_stages_and_middle_the_first_half_of_them(stages, kept):
    evidence = Evidence(["s"] * stages, None, 0.1, {})
    assert always_full(evidence) == stages - 1
    assert middle(evidence) == kept


def test_the_probe_rule_stops_at_98_percent_of_the_best():
    assert probe_share_of_best(probe([0.5, 0.8, 0.883, 0.9, 0.85])) == 2
    assert probe_share_of_best(probe([0.5, 0.8, 0.882, 0.9, 0.9])) == 2
    assert probe_share_of_best(probe([0.5, 0.8, 0.8819, 0.9, 0.9])) == 3


def test_one_standard_error_is_binomial_and_shrinks_with_the_samples():
    accuracy = [0.5, 0.88, 0.895, 0.9]
    assert one_standard_error(probe(accuracy, n=100)) == 1  # standard error 0.03
    assert one_standard_error(probe(accuracy, n=2500)) == 2  # 0.006
    assert one_standard_error(probe(accuracy, n=10_000)) == 3  # 0.003
    assert one_standard_error(probe([0.5, 0.84, 0.86, 0.9], n=36)) == 2  # exactly 0.05, and 0.06 is more


def test_one_standard_error_says_nothing_where_the_number_of_samples_is_not_known():
    assert one_standard_error(Evidence(["a"], None, 0.1, {("linear_probe_accuracy", "val"): np.array([0.9])})) is None


def test_effective_depth_is_where_class_means_err_one_point_more_than_at_the_last_stage():
    assert effective_depth(evidence_of(ncm_accuracy=[0.3, 0.6, 0.889, 0.89, 0.9])) == 3
    assert effective_depth(evidence_of(ncm_accuracy=[0.3, 0.95, 0.8, 0.9])) == 1
    assert effective_depth(evidence_of(ncm_accuracy=[0.3, 0.5, 0.7, 0.9])) == 3


def test_effective_depth_is_the_papers_where_the_last_stage_makes_no_error():
    error = np.array([0.4, 0.2, 0.011, 0.009, 0.0])
    assert effective_depth(evidence_of(ncm_accuracy=1 - error)) == int(np.flatnonzero(error <= 0.01)[0])


@pytest.mark.parametrize(
    ("saturation", "kept"),
    [
        ([0.5, 0.4, 0.3, 0.05, 0.04], 2),
        ([0.5, 0.4, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05], 1),  # the tail may be the longer part
        ([0.5, 0.05, 0.4, 0.3, 0.05], 3),  # a low stage in the midst is no tail
        ([0.4, 0.42, 0.38, 0.4], 3),
        ([0.05, 0.1, 0.3, 0.5], 3),
        ([0.6, 0.5, NAN, NAN], 1),  # constant features span nothing
    ],
)
def test_the_saturation_tail_is_cut_off(saturation, kept):
    assert saturation_tail(evidence_of(saturation=saturation)) == kept


@pytest.mark.parametrize(
    ("beyond", "kept"),
    [
        ([0, 0, 0, 0], 3),
        ([0, 0, 1, 1], 1),
        ([0, 0, 1, NAN], 1),
        ([0, 0, 0, NAN], 3),  # the rule is about convolutions, not the layers after pooling
        ([1, 1, 1], 0),
        ([NAN, NAN], None),
    ],
)
def test_the_border_cuts_off_the_stages_that_see_more_than_the_image(beyond, kept):
    assert receptive_field_border(evidence_of(beyond_border=beyond)) == kept


def test_the_knee_is_that_of_the_example_of_kneedle():
    figure_2 = np.array([-5.0, 0.263, 1.897, 2.692, 3.163, 3.475, 3.696, 3.861, 3.989, 4.091])  # y = 5 - 1 / (x + 0.1)
    assert gdv_knee(evidence_of(gdv=-figure_2)) == 2


@pytest.mark.parametrize(
    ("gdv", "kept"),
    [
        ([-0.1, -0.4, -0.45, -0.5], 1),
        ([-0.1, -0.4, -0.5, -0.3, -0.1], 1),  # what comes after the best stage does not matter
        ([-0.1, -0.2, -0.3, -0.4], 3),  # straight: no knee
        ([-0.1, -0.12, -0.15, -0.4], 3),  # most of it in the last stage: no knee
        ([-0.2, -0.1, -0.45, -0.5], 2),  # an energy barrier first
        ([-0.1, -0.4], 1),
    ],
)
def test_the_knee_of_gdv(gdv, kept):
    assert gdv_knee(evidence_of(gdv=gdv)) == kept


def test_the_plateau_of_the_separability_index_begins_within_one_percent_of_the_best():
    assert separability_plateau(evidence_of(separability_index=[0.3, 0.79, 0.792, 0.8, 0.7])) == 2
    assert separability_plateau(evidence_of(separability_index=[0.3, 0.5, 0.7, 0.8])) == 3


@pytest.mark.parametrize(
    ("logarithm", "kept"),
    [
        ([8, 6, 4, 2, 0], 4),
        ([10, 8, 6, 4, 2, 2, 2, 2, 2, 2], 4),
        ([10, 8, 6, 4, 3.9, 3.8, 3.7], 3),
        ([10, 8, 6, 4, 5, 6], 3),
        ([10, 9.9, 8, 6, 4], 4),  # what is slow at first and then follows the line has not broken
        ([6, 7, 8, 9], 0),
        ([np.inf, 8, 6, 4, 4], 3),
    ],
)
def test_the_separation_law_breaks_where_the_logarithm_stops_falling(logarithm, kept):
    assert separation_law_break(law(logarithm)) == kept


def test_full_collapse_is_the_end_of_the_separation_law():
    assert separation_law_break(evidence_of(separation_law=[100, 10, 1, 0, 0])) == 3


def test_growth_stops_after_stages_that_gain_too_little_together():
    assert gain_below_threshold(probe([0.5, 0.7, 0.702, 0.704, 0.9])) == 1
    assert gain_below_threshold(probe([0.5, 0.7, 0.7, 0.71, 0.713, 0.714])) == 3
    assert gain_below_threshold(probe([0.5, 0.7, 0.8, 0.804])) == 2  # one stage is left, and decides
    assert gain_below_threshold(probe([0.5, 0.6, 0.7, 0.8])) == 3
    assert gain_below_threshold(probe([0.5, 0.505, 0.505])) == 1  # exactly the threshold is enough
    assert gain_below_threshold(probe([0.5, 0.5, 0.9]), patience=1) == 0


def test_heads_are_read_where_every_stage_has_one_else_probes():
    heads, probes = [0.5, 0.6, 0.9], [0.8, 0.9, 0.9]
    layerwise = evidence_of(head_accuracy=heads, linear_probe_accuracy=probes)
    assert accuracy_metric(layerwise) == "head_accuracy"
    assert accuracy_curve(layerwise).tolist() == heads
    assert probe_share_of_best(layerwise) == 2
    one_head = evidence_of(head_accuracy=[NAN, NAN, 0.9], linear_probe_accuracy=probes)
    assert accuracy_metric(one_head) == "linear_probe_accuracy"
    assert accuracy_curve(one_head).tolist() == probes
    assert probe_share_of_best(one_head) == 1
    assert accuracy_curve(evidence_of(linear_probe_accuracy=[NAN, 0.9, 0.9])) is None


@pytest.mark.parametrize("name", READS)
def test_a_rule_says_nothing_where_what_it_reads_was_not_measured(name):
    rule = SIMPLE_RULES[name]
    assert rule(Evidence(["a", "b"], "bp", 0.1, {})) is None
    assert rule(evidence_of(stages=2, **{READS[name]: [NAN, NAN]})) is None
    others = {metric: [0.4, 0.5] for metric in READS.values() if metric != READS[name]}
    assert rule(evidence_of(**others)) is None
    assert rule(evidence_of(**{READS[name]: [0.4, 0.5]})) is not None


@pytest.mark.parametrize("name", SIMPLE_RULES)
def test_one_stage_is_kept_by_every_rule(name):
    assert SIMPLE_RULES[name](whole([0.7])) == 0


@pytest.mark.parametrize("name", sorted(SEPARATION))
def test_stages_that_bring_nothing_are_not_kept(name):
    worse = [0.9, 0.8, 0.7, 0.6, 0.5]
    lower_is_better = name in ("knee of GDV", "break of separation law")
    assert SIMPLE_RULES[name](whole([0.6] * 5)) == 0
    assert SIMPLE_RULES[name](whole(worse[::-1] if lower_is_better else worse)) == 0


curves = arrays(float, st.integers(1, 10), elements=st.floats(0.0625, 0.9375, width=16))


@given(curves)
def test_every_rule_chooses_one_of_the_stages(curve):
    for name, rule in SIMPLE_RULES.items():
        position = rule(whole(curve))
        assert type(position) is int, name
        assert 0 <= position < len(curve), name


@given(curves, st.sampled_from([0.25, 2.0, 8.0]))
def test_scale_does_not_matter_to_shares_knees_and_logarithms(curve, factor):
    for name, rule in SIMPLE_RULES.items():
        if name not in ("one standard error", "nearest-class-mean effective depth", "gain below threshold"):
            metric = READS.get(name, "gdv")
            if metric != "beyond_border":
                assert rule(evidence_of(**{metric: factor * curve})) == rule(evidence_of(**{metric: curve})), name


@given(curves, st.sampled_from([-1.0, 0.5, 4.0]))
def test_a_constant_does_not_matter_to_gains_and_knees(curve, constant):
    for rule, metric in [
        (gdv_knee, "gdv"),
        (effective_depth, "ncm_accuracy"),
        (gain_below_threshold, "linear_probe_accuracy"),
    ]:
        assert rule(evidence_of(**{metric: curve + constant})) == rule(evidence_of(**{metric: curve}))


@given(curves, st.integers(1, 4))
def test_stages_without_a_value_take_no_part(curve, missing):
    for name in ("saturation tail", "plateau of separability index", "nearest-class-mean effective depth"):
        longer = np.concatenate([curve, np.full(missing, NAN)])
        metric = READS[name]
        assert SIMPLE_RULES[name](evidence_of(**{metric: longer})) == SIMPLE_RULES[name](evidence_of(**{metric: curve}))


class ValOnly(Evidence):
    """Evidence that lets nobody look at test or train."""

    def curve(self, metric, split="val"):
        assert split in ("val", "none"), f"read {metric} of {split}"
        return super().curve(metric, split)


@pytest.mark.parametrize("name", SIMPLE_RULES)
def test_no_rule_reads_test(name):
    rule = SIMPLE_RULES[name]
    known = whole([0.2, 0.5, 0.7, 0.9, 0.9])
    test = {(metric, "test"): np.linspace(0.9, 0.1, 5) for metric in (*READS.values(), "head_accuracy")}
    fenced = ValOnly(known.stages, "bp", 0.1, {**known.curves, **test}, known.counts)
    assert rule(fenced) == rule(known)


def test_every_rule_says_in_a_sentence_what_it_does_and_what_it_needs():
    for name, rule in SIMPLE_RULES.items():
        assert rule.name == name
        assert 10 < len(rule.does) <= 80
        assert bool(rule.needs) == (name in READS)


def test_the_rules_beside_a_table_stop_where_each_rule_does_or_say_what_the_table_lacks(make_table):
    others = {("saturation", "val"): [0.5, 0.4, 0.05, 0.05]}
    stops = {stop.rule: stop for stop in rules_beside(make_table([0.5, 0.88, 0.9, 0.9], n=1000, others=others))}
    assert list(stops) == list(SIMPLE_RULES)
    assert (stops["always full"].stage, stops["always full"].depth, stops["always full"].lacks) == ("s4", 4, "")
    assert (stops["saturation tail"].stage, stops["saturation tail"].depth) == ("s2", 2)
    assert stops["one standard error"].depth == 3
    knee = stops["knee of GDV"]
    assert (knee.stage, knee.depth, knee.lacks) == (None, None, "gdv")


def test_the_accuracy_that_a_rule_lacks_is_the_one_the_network_is_judged_by(make_table):
    table = make_table([0.5, 0.9], source="linear_probe", strategy="bp")
    lacking = rules_beside(table[table["metric"] != "linear_probe_accuracy"])
    needs = {stop.rule: stop.lacks for stop in lacking}
    assert needs["probe at 98 % of best"] == "linear_probe_accuracy at every stage"


def test_evidence_of_a_table_knows_how_many_samples_each_value_rests_on(make_table):
    table = make_table([0.5, 0.88, 0.895, 0.9], n=2500, source="linear_probe")
    evidence = Evidence.of(table)
    assert evidence.counts["linear_probe_accuracy", "val"] == 2500
    assert one_standard_error(evidence) == 2
    assert Evidence.of(table.assign(n=NAN)).counts == {}
