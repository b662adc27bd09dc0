"""What is to be expected of a network of each depth: accuracy with its interval, and whether it is enough."""

from dataclasses import dataclass

import numpy as np

from lwexplain.advice.curve import DepthCurve
from lwexplain.advice.depth_model import MIN_ERROR, SourceModel, log_error_ratio, spread_of
from lwexplain.advice.evidence import Evidence

SLACK = 1e-9
"""Room for rounding where an accuracy lies on the tolerance exactly."""


@dataclass(frozen=True)
class Outlook:
    """Networks of each of S depths, trained as the analyzed one was.

    ``predicted`` (S,) their accuracy on val, on which depth is decided; ``drawn`` (B, S) draws of it, which vary the
    val samples (paired bootstrap) and what the depth model leaves open. ``sufficiency`` (S,) is the probability that a
    depth is not worse than the best one by more than the tolerance, ``sufficient`` (S,) says where that is as high as
    a decision asks for, ``interval`` holds the central 90 % of the smallest depths that single draws call sufficient.
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
    """The outlook from one analysis; ``curve`` is the bootstrap of its source on val."""
    chosen = np.array(curve.depths) - 1
    field = evidence.curve("receptive_field", "none")[chosen]
    known = bool(np.isfinite(field).all() and evidence.side is not None)
    side = float(evidence.side or 1)

    def ratio_of(accuracy: np.ndarray) -> np.ndarray:
        return log_error_ratio(model, accuracy, field if known else None, side)

    ratio = ratio_of(curve.accuracy)
    full = _full_accuracy(evidence, curve, chosen, "val")
    predicted = 1 - np.minimum(_error(full) * np.exp(ratio), 1)
    drawn = _draws(curve, model, ratio_of(curve.resampled), full, seed)
    enough = drawn[:, [int(np.argmax(predicted))]] - drawn <= tolerance + SLACK
    sufficiency = enough.mean(axis=0)
    within = drawn.max(axis=1, keepdims=True) - drawn <= tolerance + SLACK
    low, high = np.quantile(within.argmax(axis=1), [0.05, 0.95], method="nearest")

    split = "test" if np.isfinite(evidence.curve(f"{curve.source}_accuracy", "test")[chosen]).all() else "val"
    accuracy = evidence.curve(f"{curve.source}_accuracy", split)[chosen]
    reported = _full_accuracy(evidence, curve, chosen, split)
    shown = ratio_of(accuracy)
    expected = 1 - np.minimum(_error(reported) * np.exp(shown), 1)
    count = evidence.counts.get((f"{curve.source}_accuracy", split), curve.n)
    deviation = np.sqrt(((1 - expected) * spread_of(model, shown)) ** 2 + expected * (1 - expected) / count)
    return Outlook(
        predicted=predicted,
        drawn=drawn,
        sufficiency=sufficiency,
        sufficient=sufficiency >= model.confidence,
        interval=(curve.depths[int(low)], curve.depths[int(high)]),
        expected=expected,
        low=np.clip(expected - model.width * deviation, 0, 1),
        high=np.clip(expected + model.width * deviation, 0, 1),
        full=reported,
        field_known=known or model.reach is None,
    )


def _full_accuracy(evidence: Evidence, curve: DepthCurve, chosen: np.ndarray, split: str) -> float:
    """Accuracy of the whole network: of its own head, or of the probe where it has none that was measured."""
    for metric in ("head_accuracy", f"{curve.source}_accuracy"):
        value = evidence.curve(metric, split)[chosen[-1]]
        if np.isfinite(value):
            return float(value)
    return float(curve.accuracy[-1])


def _error(accuracy: float) -> float:
    return max(1 - accuracy, MIN_ERROR)


def _draws(curve: DepthCurve, model: SourceModel, ratio: np.ndarray, full: float, seed: int) -> np.ndarray:
    """Accuracies (B, S): errors relative to the full depth's, each with what the model leaves open about it."""
    noise = np.random.default_rng(seed + 1).standard_normal(ratio.shape)
    error = _error(full) * np.exp(ratio + spread_of(model, ratio) * noise)
    return 1 - np.minimum(error, 1)
