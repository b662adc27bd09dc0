"""What the commands print of a run, a recommendation and several runs."""

import numpy as np
import pandas as pd
import pytest
from made_tables import table_of

from lwexplain.advice.recommend import recommend
from lwexplain.advice.simple_rules import SIMPLE_RULES, rules_beside
from lwexplain.views.simple_rules import OURS, rules_table
from lwexplain.views.text import comparison_table, print_advice, print_rules, print_similarity, stages_table

VAL = [0.5, 0.88, 0.9, 0.9]


def test_the_table_of_stages_has_a_column_for_what_was_measured_and_a_dash_where_it_was_not():
    others = {("knn_accuracy", "val"): [0.4, np.nan, 0.6, 0.7], ("parameters", "none"): [9, 8, 7, 6000]}
    table = table_of(VAL, others=others)
    shown = stages_table(table)
    assert shown.header == ["depth", "stage", "head val", "head test", "kNN val", "parameters"]
    assert [row[0] for row in shown.rows] == ["1", "2", "3", "4"]
    assert [row[4] for row in shown.rows] == ["0.4000", "-", "0.6000", "0.7000"]
    assert shown.rows[3][-1] == "6,000"


def test_what_probes_of_others_measured_has_a_column_that_names_the_split_unless_it_is_val():
    table = table_of(VAL, others={("spread", "val"): [1.0, 2.0, 3.0, 4.0], ("sizes", "train"): [5, 6, 7, 8]})
    table["probe"] = table["metric"].map(lambda metric: metric if metric in ("spread", "sizes") else "head")
    table.attrs["built_in"] = ["head"]
    shown = stages_table(table)
    assert shown.header[-2:] == ["spread", "sizes train"]
    assert [row[-2:] for row in shown.rows] == [["1", "5"], ["2", "6"], ["3", "7"], ["4", "8"]]


def test_the_advice_says_verdict_stage_and_reason(capsys):
    advice = recommend(table_of(VAL))
    print_advice(advice)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"recommendation: {advice.verdict} - {advice.stage}, depth {advice.depth} of 4")
    assert lines[1] == f"  {advice.reason}"


def test_the_rules_stand_below_the_recommendation(capsys):
    table = table_of(VAL)
    advice = recommend(table)
    print_rules(advice, rules_beside(table))
    _, header, _, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["rule", "depth", "stage", "what", "it", "does"]
    assert lines[0].split()[:3] == [OURS, str(advice.depth), advice.stage]
    assert [line[: len(name)] for line, name in zip(lines[1:], SIMPLE_RULES, strict=True)] == list(SIMPLE_RULES)


def test_a_rule_that_cannot_be_applied_says_what_it_lacks_and_still_what_it_does():
    shown = {row[0]: row[1:] for row in rules_table(None, rules_beside(table_of(VAL))).rows}
    assert shown[OURS] == ["-", "-", "the recommendation"]
    does = SIMPLE_RULES["saturation tail"].does
    assert shown["saturation tail"] == ["-", "-", f"{does}; cannot be applied, the table lacks saturation"]
    assert shown["always full"][:2] == ["4", "s4"]


@pytest.mark.parametrize(("notes", "balanced"), [([], False), (["uneven classes: 3 of 4"], True)])
def test_balanced_accuracies_are_compared_only_where_classes_are_uneven(notes, balanced):
    advice = recommend(table_of(VAL)).to_dict() | {"notes": notes, "run": "a", "strategy": "greedy"}
    shown = comparison_table(pd.DataFrame([advice | {"training_seconds": None}]))
    assert ("own_head_balanced_accuracy" in shown.header) == balanced
    assert dict(zip(shown.header, shown.rows[0], strict=True))["training_seconds"] == "-"


def test_the_similarity_of_two_runs_is_a_grid_with_the_second_run_in_columns(capsys):
    pairs = [(depth, f"a{depth}", other, f"b{other}", depth / other) for depth in (1, 2) for other in (1, 2)]
    table = pd.DataFrame(pairs, columns=["depth", "stage", "other_depth", "other_stage", "cka_linear"])
    table.attrs["n"] = 2000
    print_similarity(table, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[2:4]] == [["1", "a1", "1.000", "0.500"], ["2", "a2", "2.000", "1.000"]]
    assert lines[4] == "linear CKA on 2,000 val images; columns: 1 b1, 2 b2"
