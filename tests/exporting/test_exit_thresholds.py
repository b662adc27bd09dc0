"""Thresholds of early exits: accurate enough, and as cheap as a search over all of them finds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwexplain.exporting.thresholds import NEVER, ExitScores, calibrated, leaving


def random_scores(seed, exits, n, levels=None):
    """Later exits are right more often; confidence says something about being right."""
    random = np.random.default_rng(seed)
    correct = random.random((exits, n)) < np.linspace(0.5, 0.9, exits)[:, None]
    confidence = np.clip(random.beta(3, 2, (exits, n)) * 0.6 + 0.35 * correct, 0.01, 1)
    if levels:
        confidence = np.ceil(confidence * levels) / levels
    return ExitScores(confidence, correct, random.uniform(1, 3, exits), random.uniform(0, 1, exits))


def by_hand(scores, thresholds):
    """Mean cost and accuracy, sample by sample."""
    cost = right = 0.0
    n = scores.confidence.shape[1]
    for sample in range(n):
        for exit_ in range(scores.exits):
            cost += scores.stage_costs[exit_]
            if thresholds[exit_] < NEVER:
                cost += scores.head_costs[exit_]
                if exit_ == scores.exits - 1 or scores.confidence[exit_, sample] >= thresholds[exit_]:
                    right += scores.correct[exit_, sample]
                    break
    return cost / n, right / n


def cheapest(scores, tolerance):
    """The least mean cost over all combinations of thresholds."""
    choices = [[NEVER, *np.unique(row)] for row in scores.confidence[:-1]]
    least = by_hand(scores, [NEVER] * (scores.exits - 1) + [0.0])[1] - tolerance
    found = [by_hand(scores, [*combination, 0.0]) for combination in itertools.product(*choices)]
    return min(cost for cost, right in found if right >= least - 1e-9)


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize("seed", range(8))
def test_with_one_early_exit_nothing_is_cheaper(seed, tolerance):
    scores = random_scores(seed, 2, 30, levels=10 if seed % 2 else None)
    assert by_hand(scores, calibrated(scores, tolerance))[0] == pytest.approx(cheapest(scores, tolerance))


def test_with_two_early_exits_it_is_all_but_the_cheapest_of_all_combinations():
    excess = []
    for seed in range(12):
        scores = random_scores(seed, 3, 16)
        excess.append(by_hand(scores, calibrated(scores, 0.1))[0] / cheapest(scores, 0.1) - 1)
    assert min(excess) >= -1e-9
    assert np.mean(excess) < 0.02


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 60), st.sampled_from([0.0, 0.02, 0.3]))
def test_accuracy_is_kept_and_cost_never_rises(seed, exits, n, tolerance):
    scores = random_scores(seed, exits, n, levels=20 if seed % 3 == 0 else None)
    cost, right = by_hand(scores, calibrated(scores, tolerance))
    full_cost, full_right = by_hand(scores, np.array([NEVER] * (exits - 1) + [0.0]))
    assert right >= full_right - tolerance - 1e-9
    assert cost <= full_cost + 1e-9


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_of_samples_does_not_matter(seed):
    scores = random_scores(seed, 3, 40)
    order = np.random.default_rng(seed).permutation(40)
    shuffled = ExitScores(scores.confidence[:, order], scores.correct[:, order], scores.stage_costs, scores.head_costs)
    np.testing.assert_allclose(calibrated(shuffled, 0.05), calibrated(scores, 0.05))


def test_a_useless_exit_is_dropped_and_a_perfect_one_takes_all():
    n = 20
    confidence = np.random.default_rng(0).random((3, n))
    costs = np.ones(3), np.full(3, 0.1)
    useless = ExitScores(confidence, np.array([[False] * n, [True] * n, [True] * n]), *costs)
    thresholds = calibrated(useless, 0.0)
    assert thresholds[0] == NEVER
    assert (leaving(confidence, thresholds) == 1).all()


def test_the_costs_of_dropped_heads_are_not_paid():
    scores = random_scores(0, 3, 5)
    first, second, third = scores.costs(np.array([NEVER, 0.5, 0.0]))
    assert first == pytest.approx(scores.stage_costs[0])
    assert second == pytest.approx(scores.stage_costs[:2].sum() + scores.head_costs[1])
    assert third == pytest.approx(scores.stage_costs.sum() + scores.head_costs[1:].sum())
