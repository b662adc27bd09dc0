"""What is to be expected of a network of each depth: accuracy with its interval, and whether it is enough."""

from dataclasses import dataclass

import numpy as np

from lwexplain.advice.curve import DepthCurve
from lwexplain.advice.depth_model import MIN_ERROR, SLACK, SourceModel, is_enough, log_error_ratio, spread_of
from lwexplain.advice.evidence import Evidence


@dataclass(frozen=True)
class Outlook:
    """Networks of each of S depths, trained as the analyzed one was.

    ``predicted`` (S,) their accuracy on val, on which depth is decided; ``drawn`` (B, S) draws of it, which vary the
    val samples (paired bootstrap) and what the depth model leaves open. ``sufficient`` (S,) says which depths are held
    to lose no more than the tolerance against the best one, ``sufficiency`` (S,) is the probability that the loss stays
    within it, ``interval`` holds the central 90 % of the smallest depths for which it does in single draws.
    ``expected``, ``low`` and ``high`` (S,) are the accuracy to report and its 90 % interval, ``full`` that of the
    analyzed network: on test, on val where there is no test split. ``field_known`` is False where the receptive fields
    were needed but not measured.
    """

    predicted: np.ndarray
    drawn: np.ndarray
    sufficiency: np.ndarray
    sufficient: np.ndarray
    interval: tuple[int, int]
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray
    full: float
    field_known: bool

    @property
    def best(self) -> int:
        """Position of the highest predicted accuracy; the shallowest where several tie."""
        return int(np.argmax(self.predicted))


def outlook_of(
    evidence: Evidence, curve: DepthCurve, model: SourceModel, tolerance: float, *, seed: int = 0
) -> Outlook:
    """The outlook from one analysis; ``curve`` is the bootstrap of its source on val.

    A model without ``reach`` takes the accuracies of the source for those of the networks.
    """
    chosen = np.array(curve.depths) - 1
    field = evidence.curve("receptive_field", "none")[chosen]
    known = bool(np.isfinite(field).all() and evidence.side is not None)

    def log_errors(accuracy: np.ndarray, full: float) -> np.ndarray:
        """(..., S) of the networks of each depth, from accuracies (..., S) of the source and that of the whole one."""
        if model.reach is None:
            return np.log(_error(accuracy))
        ratio = log_error_ratio(model, accuracy, field if known else None, float(evidence.side or 1))
        return np.log(_error(np.array(full))) + ratio

    def with_own_head(accuracy: np.ndarray, split: str) -> tuple[np.ndarray, float]:
        """Accuracies whose last one is that of the network's own head where it was measured, and that one."""
        own = evidence.curve("head_accuracy", split)[chosen[-1]]
        full = float(own if np.isfinite(own) else accuracy[-1])
        return (np.append(accuracy[:-1], full) if model.reach is None else accuracy), full

    measured, full = with_own_head(curve.accuracy, "val")
    log_error = log_errors(measured, full)
    predicted = 1 - np.minimum(np.exp(log_error), 1)
    resampled = np.clip(curve.resampled + (measured - curve.accuracy), 0, 1)
    drawn = _with_spread(log_errors(resampled, full), model, seed)
    enough = is_enough(model, log_error, tolerance)
    best = int(np.argmax(predicted))
    sufficiency = (drawn[:, [best]] - drawn <= tolerance + SLACK).mean(axis=0)
    within = drawn.max(axis=1, keepdims=True) - drawn <= tolerance + SLACK
    low, high = np.quantile(within.argmax(axis=1), [0.05, 0.95], method="nearest")

    metric = f"{curve.source}_accuracy"
    split = "test" if np.isfinite(evidence.curve(metric, "test")[chosen]).all() else "val"
    measured, reported = with_own_head(evidence.curve(metric, split)[chosen], split)
    log_error = log_errors(measured, reported)
    expected = 1 - np.minimum(np.exp(log_error), 1)
    spread = spread_of(model, log_error - log_error[-1])
    count = evidence.counts.get((metric, split), curve.n)
    deviation = np.sqrt(((1 - expected) * spread) ** 2 + expected * (1 - expected) / count)
    return Outlook(
        predicted=predicted,
        drawn=drawn,
        sufficiency=sufficiency,
        sufficient=enough,
        interval=(curve.depths[int(low)], curve.depths[int(high)]),
        expected=expected,
        low=np.clip(expected - model.width * deviation, 0, 1),
        high=np.clip(expected + model.width * deviation, 0, 1),
        full=reported,
        field_known=known or model.reach is None,
    )


def _error(accuracy: np.ndarray) -> np.ndarray:
    return np.maximum(1 - accuracy, MIN_ERROR)


def _with_spread(log_error: np.ndarray, model: SourceModel, seed: int) -> np.ndarray:
    """Accuracies (B, S) of networks whose log errors lie around the given ones as the model leaves it open."""
    noise = np.random.default_rng(seed + 1).standard_normal(log_error.shape)
    spread = spread_of(model, log_error - log_error[:, [-1]])
    return 1 - np.minimum(np.exp(log_error + spread * noise), 1)
