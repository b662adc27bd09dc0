"""What is asked of an analysis is checked once, and read back from a recommendation on file."""

import copy
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lwexplain as lw
from lwexplain.advice.question import Question, objectives
from lwexplain.advice.recommend import recommend
from lwexplain.costs import COSTS
from lwexplain.errors import AdviceError, ConfigError, LwexplainError


def test_the_usual_question_is_the_smallest_network_within_half_a_point_trained_anew():
    assert Question() == Question(tolerance=0.005, objective="params", budgets={}, retrain=True)


def test_an_unknown_objective_is_refused_by_name():
    assert Question(objective="memory").objective == "memory"
    with pytest.raises(AdviceError, match="no objective 'speed'; choose one of accuracy, params, flops, latency"):
        Question(objective="speed")


@pytest.mark.parametrize("value", [-0.1, 1, 50, math.nan, True, "0.01", None, [0.1]])
def test_a_tolerance_is_a_difference_of_accuracies(value):
    with pytest.raises(AdviceError, match=r"tolerance is a difference of accuracies in \[0, 1\), found "):
        Question(value)


def test_a_budget_is_of_a_known_cost():
    with pytest.raises(AdviceError, match=r"no budget for 'accuracy' \(found 0.9\); costs are params, flops"):
        Question(budgets={"accuracy": 0.9})
    with pytest.raises(AdviceError, match=r"budgets is .*; expected a mapping such as"):
        Question(budgets=[("params", 1e6)])


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "5", None])
def test_a_budget_is_a_positive_finite_number(value):
    with pytest.raises(AdviceError, match=r"the budget of latency is .*; it must be a positive number of seconds"):
        Question(budgets={"latency": value})


def test_numbers_may_be_of_any_kind_and_become_plain_ones():
    question = Question(np.float32(0.25), budgets={"params": np.int64(5), "latency": np.float32(0.5)})
    assert (question.tolerance, question.budgets) == (0.25, {"params": 5.0, "latency": 0.5})
    assert all(type(value) is float for value in (question.tolerance, *question.budgets.values()))


def test_whether_to_retrain_is_true_or_false():
    with pytest.raises(ConfigError, match="retrain is 'no'; it must be True or False"):
        Question(retrain="no")


def test_a_question_stays_as_it_was_asked():
    budgets = {"params": 10}
    question = Question(budgets=budgets)
    budgets["flops"] = 1
    assert question.budgets == {"params": 10.0}
    with pytest.raises(FrozenInstanceError):
        question.tolerance = 0.1
    assert copy.deepcopy(question) == question
    with pytest.raises(AdviceError, match="no objective"):
        replace(question, objective="speed")


budgets = st.dictionaries(st.sampled_from(sorted(COSTS)), st.floats(1e-6, 1e9))


@given(st.floats(0, 0.999), st.sampled_from(objectives()), budgets)
def test_a_question_is_read_back_from_what_it_was_answered_with(tolerance, objective, most):
    asked = Question(tolerance, objective, most)
    on_file = {"tolerance": asked.tolerance, "objective": asked.objective, "budgets": asked.budgets, "depth": 3}
    assert Question.from_recommendation(on_file) == asked


def test_a_recommendation_of_a_table_answers_the_question_it_was_asked(make_table):
    asked = Question(0.02, "accuracy")
    advice = recommend(make_table([0.4, 0.85, 0.9, 0.89]), asked)
    assert Question.from_recommendation(advice.to_dict()) == asked


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (None, Question()),
        (["odd"], Question()),
        ({}, Question()),
        ({"tolerance": 0.1, "objective": "speed", "budgets": {"flops": -1}}, Question(0.1)),
        ({"tolerance": 7, "objective": "flops", "budgets": {"params": 5}}, Question(0.005, "flops", {"params": 5})),
        ({"tolerance": "0.1", "objective": None, "budgets": [1]}, Question()),
        ({"tolerance": math.nan, "budgets": {"params": 5, "size": 1}}, Question()),
        ({"objective": ["params"], "budgets": {"params": 10**400}}, Question()),
    ],
)
def test_what_could_not_have_been_asked_is_read_as_the_usual(content, asked):
    assert Question.from_recommendation(content) == asked


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["tolerance", "objective", "budgets"]), json_values))
def test_any_recommendation_on_file_gives_a_question(content):
    assert isinstance(Question.from_recommendation(content), Question)


@pytest.mark.parametrize(
    "call",
    [
        lambda table, folder: lw.recommend(table, 2),
        lambda table, folder: lw.compare([folder], 2),
        lambda table, folder: lw.export(folder, folder / "net.pt2", tolerance=2),
        lambda table, folder: Question(2),
    ],
)
def test_every_way_in_says_the_same_of_a_tolerance_that_is_none(make_table, tmp_path, call):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(LwexplainError, match=r"found 2; 0\.005 is half a point"):
        call(make_table([0.4, 0.9]), tmp_path)
