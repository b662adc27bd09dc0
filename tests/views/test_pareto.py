"""What the chart and the table of accuracy against cost show."""

from dataclasses import replace

import pytest

from lwexplain.advice.prospects import Prospect
from lwexplain.costs import COSTS
from lwexplain.views.pareto import pareto_figure, pareto_table

MIB = 2.0**20


def costs(*numbers):
    """Costs by name, in the order of their table."""
    return dict(zip(COSTS, numbers, strict=True))


def depths(*, lacking=(), **changed):
    """Four depths, the third the best; ``changed`` replaces fields of all of them, costs ``lacking`` are unknown."""
    made = [
        Prospect("stem", 1, 0.80, (0.77, 0.83), False, costs(1_000, 2e6, 0.001, 1 * MIB)),
        Prospect("block1", 2, 0.90, (0.88, 0.92), True, costs(20_000, 1e6, 0.002, 2 * MIB)),
        Prospect("<block2>", 3, 0.93, (0.91, 0.95), True, costs(300_000, 3e6, 0.003, 3 * MIB)),
        Prospect("block3", 4, 0.92, (0.90, 0.94), True, costs(4_000_000, 4e6, 0.004, 4 * MIB)),
    ]
    unknown = dict.fromkeys(lacking)
    return [replace(prospect, costs=prospect.costs | unknown, **changed) for prospect in made]


def shown(figure):
    """Traces that are drawn before a button is pressed, by name; the line of the front under ``None``."""
    return {trace.name: trace for trace in figure.data if trace.visible is not False and trace.x[0] is not None}


def test_the_front_is_a_line_the_recommended_depth_a_star_and_beaten_ones_are_pale():
    traces = shown(pareto_figure(depths(), 2, "params"))
    assert list(traces[None].y) == [0.80, 0.90, 0.93, 0.93]  # and on to the right end: more cost buys no more
    assert list(traces[None].x)[:3] == [1_000, 20_000, 300_000]
    assert traces[None].line.shape == "hv"
    assert list(traces["recommended"].x) == [20_000]
    assert list(traces["recommended"].marker.symbol) == ["star"]
    assert list(traces["recommended"].text) == ["<b>2: block1</b>"]
    assert list(traces["on the front"].text) == ["1", "3"]
    assert list(traces["beaten by another depth"].text) == ["4"]


def test_a_depth_that_is_not_enough_is_hollow_and_the_legend_says_so():
    figure = pareto_figure(depths(), 2)
    assert list(shown(figure)["on the front"].marker.symbol) == ["circle-open", "circle"]
    assert any("hollow: not enough" in (trace.name or "") for trace in figure.data)
    assert not any("hollow" in (trace.name or "") for trace in pareto_figure(depths(sufficient=True), 2).data)


def test_intervals_reach_from_low_to_high():
    point = shown(pareto_figure(depths(), 2))["recommended"]
    assert point.error_y.array[0] == pytest.approx(0.02)
    assert point.error_y.arrayminus[0] == pytest.approx(0.02)


def test_a_button_a_cost_and_the_cost_of_the_objective_comes_first():
    figure = pareto_figure(depths(), 2, "memory")
    menu = figure.layout.updatemenus[0]
    assert [button.label for button in menu.buttons] == ["parameters", "FLOPs", "latency", "memory"]
    assert menu.active == 3
    assert figure.layout.xaxis.title.text == "memory (MiB)"
    assert list(shown(figure)["recommended"].x) == [2.0]
    assert all(len(button.args[0]["visible"]) == len(figure.data) for button in menu.buttons)


def test_costs_over_more_than_a_decade_lie_on_a_logarithmic_axis():
    figure = pareto_figure(depths(), 2, "params")
    assert figure.layout.xaxis.type == "log"
    assert {"1 k", "10 k", "1 M"} <= set(figure.layout.xaxis.ticktext)
    assert pareto_figure(depths(), 2, "latency").layout.xaxis.type == "linear"


def test_a_budget_is_a_line_on_the_chart_of_its_cost_alone():
    figure = pareto_figure(depths(), 2, "latency", budgets={"latency": 0.0035})
    assert list(shown(figure)["budget"].x) == [3.5, 3.5]
    assert "budget" not in shown(pareto_figure(depths(), 2, "params", budgets={"latency": 0.0035}))


def test_hovering_names_the_stage_and_all_its_costs_with_foreign_text_escaped():
    text = shown(pareto_figure(depths(), None))["on the front"].customdata[2]
    assert text.startswith("<b>&lt;block2&gt;</b> (depth 3)<br>expected accuracy 0.9300<br>90 % interval 0.9100 to")
    assert text.endswith("parameters: 300 k<br>FLOPs: 3 M<br>latency (ms): 3<br>memory (MiB): 3")


def test_costs_that_were_not_measured_have_no_button_and_no_column():
    bare = depths(lacking=["params", "flops", "memory"])
    figure = pareto_figure(bare, 2, "accuracy")
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["stages", "latency"]
    assert list(shown(figure)["recommended"].x) == [2]
    assert pareto_table(bare).header == [
        "depth",
        "stage",
        "expected accuracy",
        "latency (ms)",
        "on the front of",
        "enough",
    ]
    assert pareto_table(bare).rows[0][-2:] == ["all", "no"]


def test_without_a_signal_there_is_a_sentence_and_an_empty_table():
    figure = pareto_figure([], None)
    assert "no signal" in figure.layout.annotations[0].text
    assert pareto_table([]).rows == []


def test_one_depth_with_one_cost_is_drawn_without_buttons():
    figure = pareto_figure(depths(lacking=["flops", "latency", "memory"])[:1], 1)
    assert not figure.layout.updatemenus
    low, high = figure.layout.xaxis.range
    assert low < 1_000 < high


def test_the_table_has_costs_in_units_and_names_the_fronts():
    table = pareto_table(depths())
    assert table.header == [
        "depth", "stage", "expected accuracy", "parameters", "FLOPs", "latency (ms)", "memory (MiB)",
        "on the front of", "enough",
    ]  # fmt: skip
    assert table.rows[0] == [
        "1",
        "stem",
        "0.8000  [0.770, 0.830]",
        "1 k",
        "2 M",
        "1",
        "1",
        "parameters, latency, memory",
        "no",
    ]
    assert [row[-2:] for row in table.rows[1:]] == [["all", "yes"], ["all", "yes"], ["–", "yes"]]
