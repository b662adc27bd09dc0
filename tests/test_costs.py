"""One table of costs: everything that names, offers, checks, draws or writes a cost reads its entry."""

import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tables import table_of
from streamlit.testing.v1 import AppTest

import lwexplain as lw
from lwexplain.costs import COSTS, BudgetField, CostKind, is_cost
from lwexplain.errors import AdviceError
from lwexplain.results.checks import check_rows
from lwexplain.views import contents
from lwexplain.views.costs import cost_figure
from lwexplain.views.pareto import pareto_figure, pareto_table
from lwexplain.views.separability import panel_metrics
from lwexplain.views.text import print_advice, print_prospects

ENERGY = CostKind(
    name="energy",
    metric="energy_joules",
    title="energy",
    least="least energy",
    counts="joules",
    unit="mJ",
    scale=1e3,
    format="measure",
    field=BudgetField("mJ", 1e-3, 0.1, "%.6g"),
    probe="power_meter",
)
JOULES = [0.004, 0.002, 0.003, 0.008]
ACCURACY = [0.70, 0.90, 0.90, 0.90]


def table(**others):
    """Four stages, of which the first is not enough, and what each costs."""
    costs = {("parameters", "none"): [10, 20, 30, 40], ("energy_joules", "none"): JOULES}
    return table_of(ACCURACY, n=600, others=costs | others)


@pytest.fixture
def energy(monkeypatch):
    """A fifth kind of cost for the time of a test: one entry, and nothing else."""
    monkeypatch.setitem(COSTS, "energy", ENERGY)
    return table()


# ---------------------------------------------------------------------- the entries


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_stands_under_its_name_and_its_metric_is_one(name):
    assert COSTS[name].name == name
    assert is_cost(COSTS[name].metric)
    assert not is_cost(f"{COSTS[name].metric}_accuracy")


@pytest.mark.parametrize(
    ("cost", "value", "told"),
    [
        ("params", 12_345, "12,345 parameters"),
        ("flops", 1.5e6, "1,500,000 FLOPs"),
        ("latency", 0.001234, "1.24 ms"),
        ("latency", 0.00124, "1.24 ms"),
        ("latency", 2.0, "2000 ms"),
        ("memory", 3 * 2**20 + 1, "3.01 MiB"),
        ("memory", 1500 * 2**20, "1500 MiB"),
    ],
)
def test_amounts_are_told_in_the_units_of_a_person_and_rounded_up(cost, value, told):
    assert COSTS[cost].amount(value) == told


@given(st.floats(1e-6, 1e4), st.sampled_from(["latency", "memory"]))
def test_a_budget_of_the_amount_told_is_enough(value, cost):
    value = value if cost == "latency" else value * 2**20
    number, unit = COSTS[cost].amount(value).split()
    told = float(number) * {"ms": 1e-3, "MiB": 2**20}[unit]
    assert value <= told * (1 + 1e-8) <= value * 1.02


def test_the_table_of_costs_loads_nothing_of_the_floors_above():
    code = "import sys, lwexplain.costs; print(*(name for name in sys.modules if name.startswith('lwexplain.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) == {"lwexplain.version", "lwexplain.costs"}


# ---------------------------------------------------------------------- the ratios of a recommendation


def test_ratios_are_a_mapping_an_attribute_each_and_a_key_each():
    advice = lw.recommend(table())
    assert advice.ratios == {"params": 0.5, "flops": None, "latency": None, "memory": None}
    assert (advice.params_ratio, advice.flops_ratio, advice.memory_ratio) == (0.5, None, None)
    assert {"params_ratio", "latency_ratio"} <= set(dir(advice))
    kept = advice.to_dict()
    assert [key for key in kept if "ratio" in key] == ["params_ratio", "flops_ratio", "latency_ratio", "memory_ratio"]
    assert kept["params_ratio"] == 0.5
    assert kept["prospects"][1]["parameters"] == advice.prospects[1].parameters == 20


@pytest.mark.parametrize("name", ["energy_ratio", "ratio", "_ratio", "dept"])
def test_what_is_no_ratio_of_a_cost_is_no_attribute(name):
    advice = lw.recommend(table())
    with pytest.raises(AttributeError, match=f"Recommendation has no field '{name}'"):
        getattr(advice, name)
    with pytest.raises(AttributeError, match="Prospect has no field 'energy_joules'"):
        _ = advice.prospects[0].energy_joules


def test_a_recommendation_survives_being_kept_by_the_explorer():
    advice = lw.recommend(table())
    assert pickle.loads(pickle.dumps(advice)) == advice


# ---------------------------------------------------------------------- a new cost is one entry


def test_a_new_cost_is_an_objective(energy):
    advice = lw.recommend(energy, objective="energy")
    assert (advice.objective, advice.depth) == ("energy", 2)
    assert contents.chosen_by(advice) == "Chosen by: least energy of all depths that are enough."
    with pytest.raises(AdviceError, match="choose one of accuracy, params, flops, latency, memory, energy"):
        lw.recommend(energy, objective="speed")


def test_a_new_cost_is_a_budget(energy):
    assert lw.recommend(energy, objective="accuracy", budgets={"energy": 0.0025}).depth == 2
    with pytest.raises(AdviceError, match=r"no depth keeps energy within 1 mJ: the least is 2 mJ, at s2 \(depth 2\)"):
        lw.recommend(energy, budgets={"energy": 0.001})
    with pytest.raises(AdviceError, match="the budget of energy is -1; it must be a positive number of joules"):
        lw.recommend(energy, budgets={"energy": -1})


def test_a_new_cost_that_was_not_measured_is_said_to_be_missing(energy):
    bare = energy[energy["metric"] != "energy_joules"]
    with pytest.raises(AdviceError, match=r"'energy' \(metric energy_joules\) was not measured .*probe 'power_meter'"):
        lw.recommend(bare, objective="energy")
    assert lw.recommend(bare).ratios["energy"] is None


def test_a_new_cost_is_a_ratio_of_the_recommendation_and_of_its_json(energy):
    advice = lw.recommend(energy)
    assert advice.ratios["energy"] == advice.energy_ratio == 0.25
    kept = advice.to_dict()
    assert kept["energy_ratio"] == 0.25
    assert [prospect["energy_joules"] for prospect in kept["prospects"]] == JOULES


def test_a_new_cost_is_a_button_of_the_pareto_figure_and_a_column_of_its_table(energy):
    advice = lw.recommend(energy)
    figure = pareto_figure(advice.prospects, advice.depth, "energy", budgets={"energy": 0.003})
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["parameters", "energy"]
    assert menu.active == 1
    assert figure.layout.xaxis.title.text == "energy (mJ)"
    found = pareto_table(advice.prospects)
    place = found.header.index("energy (mJ)")
    assert [row[place] for row in found.rows] == ["4", "2", "3", "8"]


def test_a_new_cost_has_a_chart_and_a_column_and_no_second_chart_among_the_measures(energy):
    figure = cost_figure(energy, depth=2)
    assert [bar.name for bar in figure.data] == ["parameters", "energy (mJ)"]
    assert list(figure.data[1].y) == pytest.approx([4, 2, 3, 8])
    assert contents.measured_costs(energy) == ["params", "energy"]
    assert list(contents.depth_table(energy)["energy (mJ)"]) == pytest.approx([4, 2, 3, 8])
    assert "energy_joules" not in panel_metrics(energy)


def test_a_new_cost_stands_in_the_text_and_among_the_numbers_of_the_advice(energy, capsys):
    advice = lw.recommend(energy)
    print_advice(advice)
    print_prospects(advice)
    said = capsys.readouterr().out
    assert "of the full network's cost: parameters 50.0 %, FLOPs -, latency -, memory -, energy 25.0 %" in said
    assert "energy (mJ)" in said
    assert ("energy saved", "75 %", "0.25 of full depth") in contents.advice_numbers(advice, energy)


def test_a_new_cost_is_never_negative_in_a_table_that_is_read(energy):
    check_rows(energy)
    energy.loc[energy["metric"] == "energy_joules", ["value", "low", "high"]] = -1.0
    with pytest.raises(ValueError, match="a cost that is negative"):
        check_rows(energy)


def test_a_new_cost_has_a_field_for_its_budget_on_the_page(energy):
    def page(found):
        from lwexplain.explorer.question_picker import choose_objective, chosen_question

        choose_objective(found)
        chosen = chosen_question(found)
        import streamlit

        streamlit.session_state["found"] = (chosen.objective, dict(chosen.budgets))

    app = AppTest.from_function(page, kwargs={"found": energy}).run()
    assert not app.exception
    titles = [field.label for field in app.number_input]
    assert titles == [
        "Most parameters", "Most FLOPs (millions)", "Most latency (ms)", "Most memory (MiB)", "Most energy (mJ)",
    ]  # fmt: skip
    assert app.selectbox[0].options == ["fewest parameters", "least energy", "highest accuracy"]
    app.number_input[-1].set_value(2.5)
    app.selectbox[0].select_index(1).run()
    assert app.session_state["found"] == ("energy", {"energy": pytest.approx(0.0025)})
