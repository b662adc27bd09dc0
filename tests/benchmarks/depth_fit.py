"""Fit the coefficients of the depth model (lwexplain/advice/depth_model.py) to tasks retrained at every depth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from depth_cases import TOLERANCE, Case, Unit
from depth_stopping import fit_stop_gain

from lwexplain.advice.curve import DepthCurve, bootstrap_curve
from lwexplain.advice.depth_model import MIN_ERROR, DepthModel, SourceModel, is_enough, log_error_ratio
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.outlook import Outlook, accuracy_interval, outlook_of

SLOPES = (0.4, 0.5, 0.6, 0.7, 0.8)
REACHES = (1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5)
CAUTIONS = (0.2, 0.3, 0.4, 0.5, 0.7)
HEAD_CAUTION = 0.2
"""Set, not fitted: on the layer-wise tasks regret hardly changes between 0.1 and 0.4, and a fitted value would jump
with every task that is left out."""

WIDTHS = tuple(np.arange(0.5, 6.01, 0.05).round(3).tolist())

BLUNDER = 0.005
"""What a recommendation that is off by more than one stage costs, as accuracy."""

SAMPLING = 0.001
"""A sampling variance of log errors that is small: 3 %."""

MISFIT = 0.01
"""What a misfit of 1 costs, as accuracy: it decides between coefficients that advise alike."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What the model sees of one unit."""

    curve: DepthCurve
    evidence: Evidence


@cache
def observed(unit: Unit) -> Observation:
    return Observation(bootstrap_curve(unit.table), Evidence.of(unit.table))


def outlook_at(model: SourceModel, unit: Unit) -> Outlook:
    seen = observed(unit)
    return outlook_of(seen.evidence, seen.curve, model, TOLERANCE)


def fit_depth_model(cases: Sequence[Case]) -> DepthModel:
    """The coefficients for both sources from the tasks in which there is something to learn."""
    usable = [case for case in cases if case.control != "random_labels"]
    sources = {}
    for source in ("head", "linear_probe"):
        sources[source] = fit_source(source, [c for c in usable if observed(c.units[0]).curve.source == source])
    gain = fit_stop_gain([case for case in usable if case.strategy == "greedy"])
    return DepthModel(**sources, stop_gain=gain, tasks=tuple(case.name for case in usable))


def fit_source(source: str, cases: Sequence[Case]) -> SourceModel:
    """What decides (slope, reach, caution) with the spread that belongs to it, then the interval."""
    start = SourceModel(spread=0.0, spread_slope=0.0, width=1.0, caution=HEAD_CAUTION)
    if source == "head":
        model = _with_spread(start, cases)
    else:
        shapes = [replace(start, slope=slope, reach=reach) for slope, reach in product(SLOPES, REACHES)]
        spread = [_with_spread(model, cases) for model in shapes]
        grid = [replace(model, caution=caution) for model, caution in product(spread, CAUTIONS)]
        costs = np.array([_cost(model, cases) for model in grid])
        equal = np.flatnonzero(costs <= costs.min() + 1e-9)
        model = grid[int(equal[len(equal) // 2])]
    return replace(model, width=_width(model, cases))


def _cost(model: SourceModel, cases: Sequence[Case]) -> float:
    """Mean over the tasks of regret, blunders and misfit."""
    total = 0.0
    for case in cases:
        truth = np.log(_error(case.accuracy) / _error(case.accuracy)[-1])
        for unit in case.units:
            ratio, error = modelled(model, unit)
            position = int(np.argmax(is_enough(model, np.log(error) + ratio, TOLERANCE)))
            regret = max(case.regret(position), 0) + BLUNDER * (abs(position - case.oracle) > 1)
            misfit = np.mean(np.abs(ratio - truth) / (0.1 + np.abs(ratio) + np.abs(truth)))
            total += (regret + MISFIT * misfit) / len(case.units)
    return total / len(cases)


def modelled(model: SourceModel, unit: Unit) -> tuple[np.ndarray, float]:
    """``log e_d / e_S`` (S,) as the model has it from val, and the error of the full depth."""
    accuracy, field, side, full = _inputs(unit)
    if model.reach is None:
        error = _error(accuracy)
        return np.log(error / error[-1]), float(error[-1])
    reference = max(float(accuracy[-1]), full)
    return log_error_ratio(model, accuracy, field, side, reference), float(_error(np.array(full)))


@cache
def _inputs(unit: Unit) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Accuracies of the source on val, receptive fields, side of the images, accuracy of the full depth's own head."""
    seen = observed(unit)
    field, side = seen.evidence.curve("receptive_field", "none"), float(seen.evidence.side or 1)
    return seen.curve.accuracy, field, side, float(seen.evidence.curve("head_accuracy")[-1])


def _with_spread(model: SourceModel, cases: Sequence[Case]) -> SourceModel:
    """Standard deviation of the retrained networks' log errors around the model: a line in the modelled ratio.

    The networks of other seeds than the analyzed one count, since in a layer-wise run its own are the analyzed ones.
    The few errors of very accurate networks say little: a gap weighs the less, the larger the sampling error of the
    logarithm of an error e, (1 - e) / (e n) in variance.
    """
    gaps, sizes, weights = [], [], []
    for case in cases:
        errors = np.array([_error(unit.test_accuracy) for unit in case.units])
        pairs = [(row, other) for row in range(len(errors)) for other in range(len(errors)) if other != row]
        for row, other in pairs:
            own, _ = modelled(model, case.units[row])
            gaps.append(np.abs(np.log(errors[other] / errors[row, -1]) - own) * np.sqrt(np.pi / 2))
            sizes.append(np.abs(own))
            sampling = (1 - errors[other]) / (errors[other] * case.units[other].n_test)
            weights.append(1 / np.sqrt(len(pairs)) / (0.1 + np.abs(own)) / (1 + sampling / SAMPLING))
    size, gap, weight = np.concatenate(sizes), np.concatenate(gaps), np.concatenate(weights)
    slope, level = np.polyfit(size, gap, 1, w=weight)
    return replace(model, spread=round(max(float(level), 0.01), 4), spread_slope=round(max(float(slope), 0.0), 4))


def _width(model: SourceModel, cases: Sequence[Case]) -> float:
    """The least of WIDTHS with which 90 % of the retrained networks of other seeds, over tasks of equal weight, lie in
    their intervals."""
    seen = [(case, [outlook_at(model, unit) for unit in case.units]) for case in cases]
    return next((width for width in WIDTHS if _coverage(width, seen) >= 0.9), WIDTHS[-1])


def _coverage(width: float, seen: Sequence[tuple[Case, list[Outlook]]]) -> float:
    """Mean over the tasks of the share of networks in the interval of an analysis with another seed."""
    shares = []
    for case, outlooks in seen:
        inside = []
        for unit, outlook in zip(case.units, outlooks, strict=True):
            low, high = accuracy_interval(outlook.expected, width * outlook.deviation, outlook.n)
            low = np.maximum(low, np.minimum(observed(unit).evidence.chance, outlook.expected))
            others = [other.test_accuracy for other in case.units if other.seed != unit.seed]
            inside += [(low <= accuracy) & (accuracy <= high) for accuracy in others]
        shares.append(np.mean(inside))
    return float(np.mean(shares))


def _error(accuracy: np.ndarray) -> np.ndarray:
    return np.maximum(1 - accuracy, MIN_ERROR)
