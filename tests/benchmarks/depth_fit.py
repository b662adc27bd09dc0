"""Fit the coefficients of the depth model (lwexplain/advice/depth_model.py) to tasks retrained at every depth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from depth_cases import TOLERANCE, Case, Unit

from lwexplain.advice.curve import DepthCurve, bootstrap_curve
from lwexplain.advice.depth_model import MIN_ERROR, DepthModel, SourceModel
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.outlook import Outlook, outlook_of

SLOPES = tuple(round(0.05 * step, 2) for step in range(4, 21))
REACHES = tuple(round(0.25 * step, 2) for step in range(4, 21))
CONFIDENCES = tuple(round(0.02 * step, 2) for step in range(10, 48))
BLUNDER = 0.005
"""What a recommendation that is off by more than one stage costs in the choice of the confidence, as accuracy."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What the model sees of one unit."""

    curve: DepthCurve
    evidence: Evidence


@cache
def observed(unit: Unit) -> Observation:
    return Observation(bootstrap_curve(unit.table), Evidence.of(unit.table))


def fit_depth_model(cases: Sequence[Case]) -> DepthModel:
    """The coefficients for both sources from the tasks in which there is something to learn."""
    usable = [case for case in cases if case.control != "random_labels"]
    by_source = {
        source: [case for case in usable if observed(case.units[0]).curve.source == source]
        for source in ("head", "linear_probe")
    }
    sources = {
        source: fit_source(source, found) if found else SourceModel(0.03, 0, 1.6, 0.6)
        for source, found in by_source.items()
    }
    return DepthModel(**sources, tasks=tuple(case.name for case in usable))


def fit_source(source: str, cases: Sequence[Case]) -> SourceModel:
    """Mean, spread, interval and confidence, one after the other."""
    model = SourceModel(spread=0.0, spread_slope=0.0, width=1.0, confidence=0.5)
    if source == "linear_probe":
        grid = [replace(model, slope=slope, reach=reach) for slope in SLOPES for reach in REACHES]
        model = min(grid, key=lambda found: _misfit(found, cases))
    model = _with_spread(model, cases)
    model = replace(model, width=_width(model, cases))
    return replace(model, confidence=_confidence(model, cases))


def _ratios(model: SourceModel, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(units, S) ``log e_d / e_S`` as the model has it from val, and (S,) as it was."""
    modelled = np.stack([_log_errors(outlook_at(model, unit).predicted) for unit in case.units])
    truth = _log_errors(case.accuracy)
    return modelled - modelled[:, -1:], truth - truth[-1]


def _log_errors(accuracy: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(1 - accuracy, MIN_ERROR))


def _misfit(model: SourceModel, cases: Sequence[Case]) -> float:
    """Mean over the tasks of |modelled - true| / (0.1 + |modelled| + |true|) of the logarithms of the error ratios.

    So a gap of 10 % counts, and whether a hopeless depth has twice or three times the error does not.
    """
    total = 0.0
    for case in cases:
        modelled, truth = _ratios(model, case)
        total += float((np.abs(modelled - truth) / (0.1 + np.abs(modelled) + np.abs(truth))).mean())
    return total / len(cases)


def _with_spread(model: SourceModel, cases: Sequence[Case]) -> SourceModel:
    """Standard deviation of the retrained networks' log errors around the model: a line in the modelled ratio.

    The networks of other seeds than the analyzed one count, since in a layer-wise run its own are the analyzed ones.
    """
    gaps, sizes = [], []
    for case in cases:
        modelled, _ = _ratios(model, case)
        errors = _log_errors(np.stack([unit.test_accuracy for unit in case.units]))
        for row, own in enumerate(modelled):
            for other, truth in enumerate(errors):
                if other != row or len(errors) == 1:
                    gaps.append(np.abs(truth - errors[row, -1] - own) * np.sqrt(np.pi / 2))
                    sizes.append(np.abs(own))
    size, gap = np.concatenate(sizes), np.concatenate(gaps)
    if size.max() == 0:
        return replace(model, spread=round(float(gap.mean()), 4))
    slope, level = np.polyfit(size, gap, 1, w=1 / (0.1 + size))
    return replace(model, spread=round(max(float(level), 0.01), 4), spread_slope=round(max(float(slope), 0.0), 4))


def _width(model: SourceModel, cases: Sequence[Case]) -> float:
    """The 90 % quantile, over tasks of equal weight, of how many deviations the retrained networks lie off."""
    values, weights = [], []
    for case in cases:
        found = []
        for unit in case.units:
            outlook = outlook_at(model, unit)
            half = np.maximum(outlook.high - outlook.expected, outlook.expected - outlook.low)
            for other in case.units:
                if other.seed != unit.seed or len(case.units) == 1:
                    found.append(np.abs(other.test_accuracy - outlook.expected) / np.maximum(half, 1e-6))
        distances = np.concatenate(found)
        values.append(distances)
        weights.append(np.full(len(distances), 1 / len(distances)))
    value, weight = np.concatenate(values), np.concatenate(weights)
    order = np.argsort(value)
    reached = np.cumsum(weight[order]) / weight.sum()
    return round(model.width * float(value[order][np.searchsorted(reached, 0.9)]), 3)


def _confidence(model: SourceModel, cases: Sequence[Case]) -> float:
    """The confidence with the least regret and the fewest blunders; of equally good ones the middle."""
    costs = np.zeros(len(CONFIDENCES))
    for case in cases:
        for unit in case.units:
            sufficiency = outlook_at(model, unit).sufficiency
            for index, confidence in enumerate(CONFIDENCES):
                position = int(np.argmax(sufficiency >= confidence)) if (sufficiency >= confidence).any() else -1
                position %= len(sufficiency)
                blunder = BLUNDER * (abs(position - case.oracle) > 1)
                costs[index] += (max(case.regret(position), 0) + blunder) / len(case.units)
    best = np.flatnonzero(costs <= costs.min() + 1e-12)
    return CONFIDENCES[int(best[len(best) // 2])]


def outlook_at(model: SourceModel, unit: Unit) -> Outlook:
    seen = observed(unit)
    return outlook_of(seen.evidence, seen.curve, model, TOLERANCE)
