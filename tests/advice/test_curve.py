"""Depth curves from tables that are damaged, and of networks whose heads were trained together."""

import pytest
from made_tables import table_of

from lwexplain.advice.curve import bootstrap_curve, decision_source
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.question import Question
from lwexplain.advice.recommend import recommend
from lwexplain.advice.simple_rules import accuracy_metric
from lwexplain.errors import AdviceError

GOOD = {"stages": ["s1", "s2"], "n": 100, "counts": {"00": 50, "11": 50}, "frequent": {"00": 5, "11": 5}}


@pytest.mark.parametrize(
    "change",
    [
        {"counts": {"0": 50, "1": 50}},
        {"counts": {"0x": 50, "11": 50}},
        {"counts": {"00": -1, "11": 101}},
        {"counts": {"00": float("nan"), "11": 1}},
        {"counts": {"00": "many"}},
        {"counts": {}},
        {"counts": None},
        {"stages": ["s1", "s9"]},
        {"stages": None},
        {"n": "a"},
        {"frequent": {"00": 51, "11": 5}},
        {"frequent": [1]},
    ],
)
def test_damaged_patterns_are_a_clear_error(change):
    table = table_of([0.5, 0.5], n=100)
    table.attrs["patterns"] = {"head": GOOD | change}
    with pytest.raises(AdviceError, match="damaged"):
        recommend(table)


def test_patterns_are_none_where_the_attribute_is_no_mapping():
    table = table_of([0.5, 0.5], n=100)
    for damaged in (None, [], "head", {"head": 5}, {"head": None}):
        table.attrs["patterns"] = damaged
        with pytest.raises(AdviceError):
            recommend(table)


def together(heads, probes=None):
    """A run by deep supervision: a head at every stage, all trained at once."""
    table = table_of(heads, strategy="deep_supervision", others={("receptive_field", "none"): [3, 30, 60]})
    table.attrs["input_shape"] = [1, 8, 8]
    if probes is not None:
        other = table_of(probes, source="linear_probe")
        found = dict(table.attrs)
        rows = other.to_dict("records") + table.to_dict("records")
        table = type(table)(rows, columns=table.columns)
        table.attrs = found | {"patterns": found["patterns"] | other.attrs["patterns"]}
    return table


def test_heads_trained_together_do_not_tell_which_depth_to_train():
    """Head 1 is far behind, as its stage serves later heads; a network of two stages sees the whole image."""
    table = together([0.60, 0.80, 0.90], probes=[0.60, 0.80, 0.90])
    assert decision_source(table) == "linear_probe"
    advice = recommend(table, Question(tolerance=0.02))
    assert (advice.source, advice.verdict, advice.depth) == ("linear_probe", "stop_here", 2)
    assert any("trained together (deep supervision)" in note for note in advice.notes)
    layer_wise = together([0.60, 0.80, 0.90], probes=[0.60, 0.80, 0.90])
    layer_wise.attrs["strategy"] = "greedy"
    assert recommend(layer_wise, Question(tolerance=0.02)).depth == 3


def test_heads_trained_together_tell_where_the_network_can_be_cut():
    table = together([0.60, 0.80, 0.90], probes=[0.60, 0.80, 0.90])
    assert decision_source(table, retrain=False) == "head"
    advice = recommend(table, Question(tolerance=0.02, retrain=False))
    assert (advice.source, advice.depth) == ("head", 3)
    assert advice.prospects[1].val_accuracy == pytest.approx(0.80, abs=2e-3)


def test_without_probes_heads_trained_together_are_no_evidence_of_other_depths():
    table = together([0.60, 0.80, 0.90])
    with pytest.raises(AdviceError, match=r"heads were trained together, .* with the probe 'linear'"):
        recommend(table)
    assert recommend(table, Question(retrain=False)).depth == 3


def test_the_simple_rules_read_probes_of_heads_trained_together():
    table = together([0.60, 0.80, 0.90], probes=[0.60, 0.89, 0.90])
    assert accuracy_metric(Evidence.of(table)) == "linear_probe_accuracy"


def test_a_part_of_the_stages_has_no_own_head():
    table = table_of([0.5, 0.7, 0.9], source="linear_probe", strategy="bp")
    part = table[table["stage"] != "s3"]
    part.attrs = table.attrs
    assert bootstrap_curve(part).depths == [1, 2]
    assert recommend(part).full_depth == 2
