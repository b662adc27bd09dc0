"""The depth that costs and budgets ask for, and the Pareto front of accuracy and cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwexplain.advice.objective import budgets_in_words, choose, measured, pareto_front
from lwexplain.advice.prospects import Prospect
from lwexplain.advice.question import Question, objectives
from lwexplain.costs import COSTS, SAME_LATENCY
from lwexplain.errors import AdviceError


def made(accuracy, sufficient=None, **costs):
    """Prospects of the given expected accuracies; costs by name, one number a depth."""
    sufficient = sufficient or [True] * len(accuracy)
    return [
        Prospect(
            f"s{depth}", depth, value, (value - 0.01, value + 0.01), enough,
            {name: values[depth - 1] for name, values in costs.items()},
        )
        for depth, (value, enough) in enumerate(zip(accuracy, sufficient, strict=True), start=1)
    ]  # fmt: skip


FOUR = made(
    [0.80, 0.90, 0.93, 0.92],
    [False, True, True, True],
    params=[10, 200, 3_000, 40_000],
    flops=[500, 400, 700, 800],
    latency=[0.001, 0.002, 0.003, 0.004],
    memory=[2**20, 2 * 2**20, 3 * 2**20, 2**22],
)


def numbers(low, high):
    return st.integers(low, high).map(float)


@st.composite
def prospects(draw, some=1):
    """Up to eight depths in any order of accuracy and cost, with ties."""
    count = draw(st.integers(some, 8))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    costs = {name: column(numbers(1, 12)) for name in COSTS}
    return made([value / 10 for value in column(numbers(0, 10))], column(st.booleans()), **costs)


budgets_of_all = st.dictionaries(st.sampled_from(sorted(COSTS)), numbers(1, 12))


# ---------------------------------------------------------------------- choose


def position(depths, objective, budgets):
    """Position of the depth that is chosen."""
    return choose(depths, Question(objective=objective, budgets=budgets))


@pytest.mark.parametrize("objective", ["params", "latency", "memory"])
def test_a_cost_as_objective_takes_the_cheapest_that_is_enough(objective):
    assert position(FOUR, objective, {}) == 1


def test_the_cheapest_may_be_deeper_than_another_one():
    assert position(made([0.9, 0.9], flops=[5, 4]), "flops", {}) == 1


def test_the_objective_accuracy_takes_the_best_whether_needed_or_not():
    assert position(FOUR, "accuracy", {}) == 2


def test_budgets_come_first():
    assert position(FOUR, "accuracy", {"params": 200}) == 1
    assert position(FOUR, "accuracy", {"flops": 400}) == 1
    assert position(FOUR, "accuracy", {"latency": 0.0035, "memory": 2.5 * 2**20}) == 1


def test_of_depths_none_of_which_is_enough_the_most_accurate_is_taken():
    assert position(FOUR, "params", {"latency": 0.001}) == 0
    assert position(made([0.5, 0.7, 0.6], [False] * 3, params=[1, 2, 3]), "params", {}) == 1


def test_equally_accurate_depths_are_told_apart_by_parameters_and_equally_cheap_ones_by_stages():
    assert position(made([0.9, 0.9], params=[5, 4]), "accuracy", {}) == 1
    assert position(made([0.9, 0.9], params=[4, 4]), "accuracy", {}) == 0
    assert position(made([0.8, 0.9], params=[4, 4]), "params", {}) == 0


def test_latencies_that_differ_by_noise_alone_are_alike():
    just_alike, different = 0.002 * (1 + SAME_LATENCY), 0.002 * (1 + 2 * SAME_LATENCY)
    assert position(made([0.9, 0.9], latency=[just_alike, 0.002]), "latency", {}) == 0
    assert position(made([0.9, 0.9], latency=[different, 0.002]), "latency", {}) == 1


def test_stages_stand_in_for_parameters_that_were_not_measured_but_not_in_a_budget():
    bare = made([0.8, 0.9, 0.9], [False, True, True])
    assert position(bare, "params", {}) == position(bare, "accuracy", {}) == 1
    with pytest.raises(AdviceError, match=r"cost 'params' \(metric parameters\) was not measured"):
        position(bare, "params", {"params": 10})


@pytest.mark.parametrize("name", ["flops", "latency", "memory"])
@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_cost_that_one_depth_lacks_is_named(name, missing):
    lacking = made([0.8, 0.9], **{name: [1.0, missing]})
    assert not measured(lacking, name)
    for objective, budgets in ((name, {}), ("accuracy", {name: 5.0})):
        with pytest.raises(
            AdviceError, match=rf"cost '{name}' \(metric {COSTS[name].metric}\) was not measured at every depth"
        ):
            position(lacking, objective, budgets)


def test_a_budget_that_nothing_fits_names_the_least_there_is():
    with pytest.raises(AdviceError, match=r"params within 9 parameters: the least is 10 parameters, at s1 \(depth 1\)"):
        position(FOUR, "params", {"params": 9})
    with pytest.raises(AdviceError, match=r"flops within 100 FLOPs: the least is 400 FLOPs, at s2 \(depth 2\); raise"):
        position(FOUR, "accuracy", {"flops": 100})
    with pytest.raises(AdviceError, match=r"no depth within 100 parameters keeps flops within 400 FLOPs: .* 500 FLOPs"):
        position(FOUR, "accuracy", {"params": 100, "flops": 400})


def test_without_a_depth_there_is_nothing_to_choose():
    with pytest.raises(AdviceError, match="no depth to choose from"):
        position([], "params", {})


@given(prospects(), st.sampled_from(objectives()), budgets_of_all)
def test_the_choice_keeps_every_budget_or_there_is_none(depths, objective, budgets):
    fitting = [all(depth.cost(name) <= most for name, most in budgets.items()) for depth in depths]
    if any(fitting):
        assert fitting[position(depths, objective, budgets)]
    else:
        with pytest.raises(AdviceError, match="the least is"):
            position(depths, objective, budgets)


@given(prospects(), budgets_of_all, st.sampled_from(sorted(COSTS)), st.sampled_from(sorted(COSTS)))
def test_the_choice_is_enough_wherever_a_depth_within_the_budgets_is(depths, budgets, name, objective):
    budgets = budgets | {name: 12.0}
    within = [depth for depth in depths if all(depth.cost(cost) <= most for cost, most in budgets.items())]
    if within:
        chosen = depths[position(depths, objective, budgets)]
        assert chosen.sufficient == any(depth.sufficient for depth in within)
        cheaper = [d for d in within if d.sufficient and d.cost(objective) < chosen.cost(objective)]
        assert not chosen.sufficient or objective == "latency" or not cheaper


@given(prospects(), st.sampled_from(sorted(COSTS)), numbers(1, 12), numbers(0, 5))
def test_a_larger_budget_never_gives_less_accuracy(depths, name, budget, more):
    if any(depth.cost(name) <= budget for depth in depths):
        tight = depths[position(depths, "accuracy", {name: budget})]
        loose = depths[position(depths, "accuracy", {name: budget + more})]
        assert loose.expected_accuracy >= tight.expected_accuracy


@given(prospects(), st.sampled_from(objectives()))
def test_a_budget_that_everything_fits_changes_nothing(depths, objective):
    assert position(depths, objective, dict.fromkeys(COSTS, 12.0)) == position(depths, objective, {})


# ---------------------------------------------------------------------- pareto_front


def test_the_front_holds_what_no_cheaper_depth_reaches():
    assert pareto_front(FOUR, "params") == [True, True, True, False]
    assert pareto_front(FOUR, "flops") == [False, True, True, False]


def test_equal_depths_are_both_on_the_front():
    assert pareto_front(made([0.9, 0.9, 0.9], params=[4, 4, 5]), "params") == [True, True, False]


def test_without_parameters_the_front_is_over_stages():
    assert pareto_front(made([0.8, 0.7, 0.9]), "params") == [True, False, True]


def test_accuracy_is_no_cost_to_draw_a_front_over():
    with pytest.raises(AdviceError, match="'accuracy' is no cost; costs are params, flops, latency, memory"):
        pareto_front(FOUR, "accuracy")


def beats(one, other, cost):
    better_or_equal = one.cost(cost) <= other.cost(cost) and one.expected_accuracy >= other.expected_accuracy
    return better_or_equal and (one.cost(cost), one.expected_accuracy) != (other.cost(cost), other.expected_accuracy)


@given(prospects(), st.sampled_from(sorted(COSTS)))
def test_depths_on_the_front_do_not_beat_each_other_and_beat_every_other(depths, cost):
    flags = pareto_front(depths, cost)
    front = [depth for depth, flag in zip(depths, flags, strict=True) if flag]
    others = [depth for depth, flag in zip(depths, flags, strict=True) if not flag]
    assert front
    assert not any(beats(one, other, cost) for one in front for other in front)
    assert all(any(beats(one, other, cost) for one in front) for other in others)


@given(prospects(), st.sampled_from(sorted(COSTS)), numbers(1, 12))
def test_the_best_within_a_budget_of_a_cost_is_as_accurate_as_the_front_there(depths, cost, budget):
    front = [d for d, flag in zip(depths, pareto_front(depths, cost), strict=True) if flag and d.cost(cost) <= budget]
    if front:
        best = max(depth.expected_accuracy for depth in front)
        assert depths[position(depths, "accuracy", {cost: budget})].expected_accuracy == best


# ---------------------------------------------------------------------- budgets in words


def test_budgets_are_told_in_the_units_of_a_person():
    assert budgets_in_words({"params": 1000, "latency": 0.002}) == "1,000 parameters and 2 ms"
    assert budgets_in_words({}) == ""
