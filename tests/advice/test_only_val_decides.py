"""Test decides nothing: its figures are exchanged over every path on which something is chosen."""

import numpy as np
import pytest
from made_tables import table_of

from lwexplain.advice.evidence import Evidence
from lwexplain.advice.objective import pareto_front
from lwexplain.advice.question import Question, objectives
from lwexplain.advice.recommend import recommend
from lwexplain.advice.simple_rules import SIMPLE_RULES
from lwexplain.api import compare
from lwexplain.costs import COSTS
from lwexplain.exporting.export import _advised
from lwexplain.results import Analysis, write_analysis
from lwexplain.run import Run

VAL = [0.80, 0.90, 0.885, 0.88]
RISING = [0.60, 0.80, 0.85, 0.90, 0.905]
COST = {
    ("parameters", "none"): [10, 20, 30, 40, 50],
    ("flops", "none"): [50, 20, 30, 40, 60],
    ("latency_seconds", "none"): [0.001, 0.002, 0.003, 0.004, 0.005],
    ("memory_bytes", "none"): [1e6, 2e6, 3e6, 2.5e6, 5e6],
    ("receptive_field", "none"): [3, 9, 15, 30, 60],
}


def layer_wise(accuracy=RISING):
    others = {("linear_probe_accuracy", split): [0.99 * value for value in accuracy] for split in ("val", "test")}
    return table_of(accuracy, n=600, others=costs(accuracy) | others)


def by_bp(accuracy=RISING, own=None, strategy="bp"):
    last = [np.nan] * (len(accuracy) - 1)
    own = accuracy[-1] if own is None else own
    others = {("head_accuracy", split): [*last, own] for split in ("val", "test")}
    table = table_of(accuracy, n=600, source="linear_probe", strategy=strategy, others=costs(accuracy) | others)
    table.attrs["input_shape"] = [1, 28, 28]
    return table


def costs(accuracy):
    return {key: values[: len(accuracy)] for key, values in COST.items()}


TABLES = {
    "layer-wise": layer_wise(),
    "layer-wise, falling again": layer_wise(VAL),
    "layer-wise, guessing": layer_wise([0.1, 0.1, 0.1, 0.1]),
    "bp": by_bp(),
    "bp, last probe collapsed": by_bp([0.6, 0.8, 0.9, 0.55], own=0.9),
    "bp, undertrained": by_bp([0.6, 0.7, 0.7], own=0.3),
    "bp, guessing": by_bp([0.6, 0.7, 0.7], own=0.1),
    "foreign": by_bp(strategy=None),
    "deep supervision": by_bp(strategy="deep_supervision"),
}


def exchanged(table, seed):
    """The same table with other figures on test: turned round, drawn anew, shifted to another metric's, or none."""
    found, rng = table.copy(), np.random.default_rng(seed)
    rows = found["split"] == "test"
    if seed == 0:
        found.loc[rows, "value"] = found.loc[rows, "value"].to_numpy()[::-1]
    elif seed == 1:
        found = found[~rows]
    else:
        found.loc[rows, "value"] = rng.uniform(0, 1, rows.sum())
    found.loc[found["split"] == "test", ["low", "high"]] = [0.0, 1.0]
    found.attrs.update(table.attrs)
    return found


def decision(advice):
    """Everything of a recommendation but what is reported of test."""
    content = advice.to_dict()
    reported = ("expected_accuracy", "expected_accuracy_interval", "full_accuracy")
    prospects = content.pop("prospects")
    kept = {key: value for key, value in content.items() if key not in reported}
    return kept, [{key: value for key, value in one.items() if key not in reported} for one in prospects]


ASKED = [{}, {"params": 12}, {"flops": 45, "memory": 2.6e6, "latency": 0.0045}]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("retrain", [True, False])
def test_no_decision_verdict_or_reason_changes_with_test(name, retrain):
    table, turn = TABLES[name], 0
    for budgets in ASKED:
        for objective in objectives():
            asked = Question(objective=objective, budgets=budgets, retrain=retrain)
            turn += 1
            assert decision(recommend(exchanged(table, turn % 4), asked)) == decision(recommend(table, asked))


def test_the_reported_figures_do_change_with_test():
    table = TABLES["layer-wise"]
    found = {recommend(exchanged(table, seed)).expected_accuracy for seed in range(4)}
    assert len(found) == 4


@pytest.mark.parametrize("test", [[0.80, 0.88, 0.91, 0.87], [0.80, 0.88, 0.87, 0.91], [0.9, 0.1, 0.9, 0.9]])
def test_the_most_accurate_depth_is_that_of_val(test):
    advice = recommend(table_of(VAL, test=test), Question(objective="accuracy"))
    assert (advice.depth, advice.expected_accuracy) == (2, pytest.approx(test[1]))


@pytest.mark.parametrize("objective", objectives())
def test_within_budgets_that_no_sufficient_depth_keeps_the_best_on_val_is_taken(objective):
    """Depths 1 to 3 keep the budget, none of them is enough; test praises the first."""
    table = table_of([0.6, 0.8, 0.7, 0.9, 0.9], test=[0.99, 0.1, 0.98, 0.9, 0.9], others=COST)
    advice = recommend(table, Question(objective=objective, budgets={"params": 30}))
    assert advice.depth == 2
    assert "no depth is surely good enough, and this is the most accurate" in advice.reason


@pytest.mark.parametrize("name", TABLES)
def test_the_pareto_front_is_that_of_val(name):
    table = TABLES[name]
    for cost in COSTS:
        fronts = [
            pareto_front(found, cost) if (found := recommend(exchanged(table, seed)).prospects) else []
            for seed in range(2)
        ]
        assert all(front == fronts[0] for front in fronts)


@pytest.mark.parametrize("name", TABLES)
def test_no_simple_rule_changes_with_test(name):
    table = TABLES[name]
    for rule in SIMPLE_RULES.values():
        assert len({rule(Evidence.of(exchanged(table, seed))) for seed in range(4)}) == 1


def written(table, path):
    """A run that holds this table as its analysis."""
    run = Run.create(path, "", strategy=table.attrs["strategy"])
    nothing = table[["stage"]].head(0).assign(source="", split="")
    write_analysis(run, Analysis(metrics=table, predictions=nothing, summary={}))
    return run


@pytest.mark.parametrize("name", ["layer-wise, falling again", "bp", "foreign", "deep supervision"])
def test_neither_export_nor_comparison_chooses_by_test(name, tmp_path):
    runs = [written(exchanged(TABLES[name], seed), tmp_path / str(seed)) for seed in range(3)]
    for objective in ("params", "accuracy"):
        chosen = {
            _advised(run, Question(objective=objective, budgets={"params": 45}, retrain=False)).depth for run in runs
        }
        assert len(chosen) == 1
    table = compare(runs)
    assert table[["verdict", "depth", "stage", "source"]].drop_duplicates().shape[0] == 1
