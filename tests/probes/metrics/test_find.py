"""Every metric of an analysis is declared, and what follows from another metric is titled after it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lwexplain.costs import cost_metrics
from lwexplain.metrics import FAMILIES, SIMILARITY, Metric, is_accuracy
from lwexplain.probes.base import PROBES
from lwexplain.probes.engine import built_in_probes
from lwexplain.probes.hooks import ProbeHooks
from lwexplain.probes.metrics import attribution, cost, geometry, sample_depth
from lwexplain.probes.metrics.find import BUILT_IN, find_metric, find_metrics

INTERFACE = json.loads((Path(__file__).parents[2] / "public_interface.json").read_text())
"""What an analysis of a small run writes, by metric and by probe; a test of its own holds it against a real one."""


@pytest.mark.parametrize("name", INTERFACE["metrics"])
def test_every_metric_that_an_analysis_writes_is_declared(name):
    metric = find_metric(name)
    assert metric.name == name
    assert metric.title


@pytest.mark.parametrize("probe", built_in_probes())
def test_a_built_in_probe_declares_the_metrics_that_it_gives(probe):
    declared = ProbeHooks(PROBES.create(probe)).metrics
    given = {name for name in INTERFACE["probes"][probe] if not name.endswith("_balanced_accuracy")}
    assert given <= set(declared)
    assert {name: find_metric(name) for name in declared} == declared


def test_costs_and_receptive_fields_are_declared_by_their_lists():
    assert [metric.name for metric in cost.metrics()] == cost_metrics()
    assert {metric.name for metric in geometry.OF_RECEPTIVE_FIELDS} == set(INTERFACE["probes"]["receptive_field"])
    assert find_metric("latency_seconds") == Metric("latency_seconds", "latency (seconds)", "lower", "cost")


def test_every_built_in_metric_has_a_place_in_a_figure():
    for name, metric in BUILT_IN.items():
        assert metric.family in FAMILIES or metric.family == SIMILARITY or is_accuracy(name)


def test_a_balanced_accuracy_and_the_depths_of_samples_are_titled_after_their_accuracy():
    mine = {"mine_accuracy": Metric("mine_accuracy", "my classifier", "higher")}
    assert find_metric("head_balanced_accuracy").title == "trained head, balanced"
    assert find_metric("mine_balanced_accuracy", mine).title == "my classifier, balanced"
    assert find_metric("linear_probe_first_correct").title == "linear probe: first right here"
    assert find_metric("mine_right_early_wrong_late", mine) == Metric(
        "mine_right_early_wrong_late", "my classifier: right before, wrong here", "lower", sample_depth.FAMILY
    )


def test_what_follows_from_an_accuracy_that_nobody_declares_is_titled_by_its_name():
    assert find_metric("mine_balanced_accuracy").title == "mine accuracy, balanced"
    assert find_metric("mine_first_correct") == Metric("mine_first_correct", "mine first correct", None, "sample_depth")


def test_the_figures_of_any_attribution_method_are_known_by_their_ends():
    assert find_metric("mine_insertion_gain") == Metric("mine_insertion_gain", better="higher", family="attribution")
    assert {metric.name for metric in attribution.metrics_of_method("mine")} == {
        f"mine_{ending}" for ending in attribution.ENDINGS
    }


def test_a_metric_that_nobody_declares_has_no_declaration():
    assert find_metric("mine") is None
    assert find_metrics(["mine", "nc2", "nc1"], {}) == {name: BUILT_IN[name] for name in ("nc1", "nc2")}


def test_declarations_of_the_probes_of_an_analysis_go_before_the_built_in_ones():
    declared = {name: Metric(name, f"my {name}") for name in ("b", "nc1", "a")}
    assert find_metric("nc1", declared).title == "my nc1"
    assert list(find_metrics(["a", "b", "silhouette", "nc1"], declared)) == ["silhouette", "nc1", "b", "a"]


def test_declarations_load_no_torch():
    code = "import sys; from lwexplain.probes.metrics.find import find_metric; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
