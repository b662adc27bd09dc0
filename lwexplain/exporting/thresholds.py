"""At which confidence a sample leaves the network early: thresholds that cost least without losing accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NEVER = np.inf
PRICES = np.geomspace(0.01, 100.0, 41)
"""What one sample classified wrongly is worth, in passes through the whole network."""

SWEEPS = 20


@dataclass(frozen=True)
class ExitScores:
    """What E exits say of N samples: ``confidence`` (E, N), the largest softmax probability, and ``correct`` (E, N).

    ``stage_costs`` (E,) is the cost of the stages from one exit to the next, ``head_costs`` (E,) that of each head;
    the last exit takes whatever reaches it.
    """

    confidence: np.ndarray
    correct: np.ndarray
    stage_costs: np.ndarray
    head_costs: np.ndarray

    @property
    def exits(self) -> int:
        return len(self.stage_costs)

    def costs(self, thresholds: np.ndarray) -> np.ndarray:
        """Cost (E,) of a sample up to each exit; heads that no sample leaves by (threshold infinite) are not run."""
        return np.cumsum(self.stage_costs + np.where(thresholds < NEVER, self.head_costs, 0.0))


def leaving(confidence: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The first exit (N,) whose confidence reaches its threshold; the last one where none does."""
    reached = confidence >= thresholds[:, None]
    reached[-1] = True
    return reached.argmax(axis=0)


def calibrated(scores: ExitScores, tolerance: float) -> np.ndarray:
    """Thresholds (E,), the last one 0: on these samples the least mean cost that was found with an accuracy at most
    ``tolerance`` below that of the last exit. An exit that does not pay gets an infinite one.

    For each of several prices of an error, the thresholds that minimise cost + price x errors are found exit by exit
    from the last to the first, over all thresholds that tell samples apart, until none changes; of those that keep the
    accuracy the cheapest goes on to a descent on the cost alone. Each exit has a threshold of its own, which absorbs
    any monotone recalibration of its softmax, so that no temperature is fitted.
    """
    n = scores.confidence.shape[1]
    needed = int(np.ceil(scores.correct[-1].sum() - tolerance * n - 1e-9))
    start = np.array([NEVER] * (scores.exits - 1) + [0.0])
    whole = float(scores.costs(start)[-1])

    def cost_within_tolerance(cost: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.where(right >= needed, cost, np.inf)

    def priced(price: float) -> Objective:
        return lambda cost, right: cost - price * whole * right

    found = [start, *(_descend(scores, start, priced(price)) for price in PRICES)]
    cheapest = min(found, key=lambda thresholds: float(cost_within_tolerance(*_totals(scores, thresholds))))
    thresholds = _descend(scores, cheapest, cost_within_tolerance)
    used = np.bincount(leaving(scores.confidence, thresholds), minlength=scores.exits) > 0
    used[-1] = True
    return np.where(used, thresholds, NEVER)


Objective = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From total costs and numbers of right samples (M,) of M choices to what is to be small (M,)."""


def _totals(scores: ExitScores, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Total cost and number of right samples, 0-dimensional."""
    exits = leaving(scores.confidence, thresholds)
    right = scores.correct[exits, np.arange(len(exits))].sum()
    return scores.costs(thresholds)[exits].sum(), right


def _descend(scores: ExitScores, thresholds: np.ndarray, objective: Objective) -> np.ndarray:
    """Change one threshold after the other, from the last exit to the first, while the objective falls."""
    thresholds = thresholds.copy()
    best = float(objective(*_totals(scores, thresholds)))
    for _ in range(SWEEPS):
        before = best
        for exit_ in reversed(range(scores.exits - 1)):
            choices, cost, right = _choices(scores, thresholds, exit_)
            values = objective(cost, right)
            at = int(values.argmin())
            if values[at] < best - 1e-9 * abs(best):
                best, thresholds[exit_] = float(values[at]), choices[at]
        if best == before:
            break
    return thresholds


def _choices(scores: ExitScores, thresholds: np.ndarray, exit_: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every threshold (M,) of one exit that tells samples apart, infinity first, with what it makes of all samples:
    total cost (M,) and number of right ones (M,), the other thresholds as they are."""
    without = thresholds.copy()
    without[exit_] = NEVER
    kept = without.copy()
    kept[exit_] = 1.0
    otherwise = leaving(scores.confidence, without)
    samples = np.arange(len(otherwise))
    costs, costs_kept = scores.costs(without), scores.costs(kept)
    reaches = np.flatnonzero(otherwise > exit_)
    order = reaches[np.argsort(-scores.confidence[exit_, reaches], kind="stable")]
    sorted_ = scores.confidence[exit_, order]

    stay_cost, stay_right = costs_kept[otherwise], scores.correct[otherwise, samples].astype(np.int64)
    cost_change = costs_kept[exit_] - stay_cost[order]
    right_change = scores.correct[exit_, order] - stay_right[order]
    ends = np.flatnonzero(np.append(sorted_[:-1] > sorted_[1:], True)) if len(order) else np.empty(0, np.int64)
    following = np.append(sorted_[1:], 0.0)
    choices = np.append(NEVER, (sorted_[ends] + following[ends]) / 2)
    cost = np.append(costs[otherwise].sum(), stay_cost.sum() + np.cumsum(cost_change)[ends])
    right = np.append(stay_right.sum(), stay_right.sum() + np.cumsum(right_change)[ends])
    return choices, cost, right


def shares_of(exits: Sequence[int] | np.ndarray, count: int) -> list[float]:
    """The share of samples that leaves at each of ``count`` exits."""
    numbers = np.bincount(np.asarray(exits), minlength=count)
    return [float(number) / len(exits) for number in numbers]
