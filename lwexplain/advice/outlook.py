"""What is to be expected of a network of each depth: accuracy with its interval, and whether it is enough."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lwexplain.advice.curve import DepthCurve
from lwexplain.advice.depth_model import MIN_ERROR, SLACK, SourceModel, is_enough, log_error_ratio, spread_of
from lwexplain.advice.evidence import Evidence
from lwexplain.intervals import Z90, wilson_interval


@dataclass(frozen=True)
class Outlook:
    """Networks of each of S depths, trained as the analyzed one was.

    ``predicted`` (S,) their accuracy on val, on which depth is decided; ``drawn`` (B, S) draws of it, which vary the
    val samples (paired bootstrap) and what the depth model leaves open. ``sufficient`` (S,) says which depths are held
    to lose no more than the tolerance against the best one, ``sufficiency`` (S,) is the probability that the loss stays
    within it, ``interval`` holds the central 90 % of the smallest depths for which it does in single draws.

    To report, from test (from val where there is no test split): ``expected``, ``low`` and ``high`` (S,) are the
    accuracy and its 90 % interval, ``deviation`` (S,) the part of its standard deviation that the depth model leaves
    open, ``n`` the samples it was measured on, and ``full`` is the accuracy of the analyzed network. ``field_known`` is
    False where the receptive fields were needed but not measured.
    """

    predicted: np.ndarray
    drawn: np.ndarray
    sufficiency: np.ndarray
    sufficient: np.ndarray
    interval: tuple[int, int]
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviation: np.ndarray
    n: int
    full: float
    field_known: bool

    @property
    def best(self) -> int:
        """Position of the highest predicted accuracy; the shallowest where several tie."""
        return int(np.argmax(self.predicted))


@dataclass(frozen=True)
class _Network:
    """The analyzed network on one split: ``accuracy`` (S,) of the source by depth, the last of which is that of its own
    head where heads are taken at their word; its own head's accuracy, None where that was not measured."""

    accuracy: np.ndarray
    own_head: float | None

    @property
    def full(self) -> float:
        """What the whole network reaches."""
        return float(self.accuracy[-1]) if self.own_head is None else self.own_head


@dataclass(frozen=True)
class _Prediction:
    """How networks of each depth follow from one analysis: ``field`` (S,) are the receptive fields of the stages in
    pixels, None where the model needs none or they are not known."""

    evidence: Evidence
    model: SourceModel
    depths: np.ndarray
    field: np.ndarray | None

    @classmethod
    def of(cls, evidence: Evidence, curve: DepthCurve, model: SourceModel) -> "_Prediction":
        depths = np.array(curve.depths)
        field = evidence.curve("receptive_field", "none")[depths - 1]
        known = bool(np.isfinite(field).all() and evidence.side is not None)
        return cls(evidence, model, depths, field if known else None)

    def network(self, accuracy: np.ndarray, split: str) -> _Network:
        """The analyzed network on a split, with accuracies (S,) of the source."""
        own = self.evidence.at("head_accuracy", int(self.depths[-1]), split)
        if own is not None and self.model.reach is None:
            accuracy = np.append(accuracy[:-1], own)
        return _Network(accuracy, own)

    def log_errors(self, accuracy: np.ndarray, whole: _Network) -> np.ndarray:
        """(..., S) of the networks of each depth, from accuracies (..., S) of the source and the whole network."""
        if self.model.reach is None:
            return np.log(_error(accuracy))
        if whole.own_head is None:  # a network trained anew is not worse than its best stage is already
            reference, full = accuracy.max(axis=-1), float(whole.accuracy.max())
        else:
            reference, full = np.maximum(accuracy[..., -1], whole.own_head), whole.own_head
        ratio = log_error_ratio(self.model, accuracy, self.field, float(self.evidence.side or 1), reference)
        largest = _error(np.array(_floor(self.evidence.chance, full)))
        return np.log(np.minimum(_error(np.array(full)) * np.exp(ratio), largest))

    def draws(self, curve: DepthCurve, whole: _Network, seed: int) -> np.ndarray:
        """Accuracies (B, S) on val that vary the samples and what the model leaves open."""
        resampled = np.clip(curve.resampled + (whole.accuracy - curve.accuracy), 0, 1)
        drawn = _with_spread(self.log_errors(resampled, whole), self.model, seed)
        return drawn if self.model.reach is None else np.maximum(drawn, _floor(self.evidence.chance, whole.full))


def outlook_of(
    evidence: Evidence, curve: DepthCurve, model: SourceModel, tolerance: float, *, seed: int = 0
) -> Outlook:
    """The outlook from one analysis; ``curve`` is the bootstrap of its source on val.

    A model without ``reach`` takes the accuracies of the source for those of the networks. Others predict them; a
    prediction is never below the accuracy of a constant guess, which any network learns, unless the whole network is.
    """
    prediction = _Prediction.of(evidence, curve, model)
    on_val = prediction.network(curve.accuracy, "val")
    log_error = prediction.log_errors(on_val.accuracy, on_val)
    predicted = _accuracy(log_error)
    drawn = prediction.draws(curve, on_val, seed)
    sufficiency = (drawn[:, [int(np.argmax(predicted))]] - drawn <= tolerance + SLACK).mean(axis=0)
    within = drawn.max(axis=1, keepdims=True) - drawn <= tolerance + SLACK
    low, high = np.quantile(within.argmax(axis=1), [0.05, 0.95], method="nearest")
    return Outlook(
        predicted=predicted,
        drawn=drawn,
        sufficiency=sufficiency,
        sufficient=is_enough(model, log_error, tolerance),
        interval=(curve.depths[int(low)], curve.depths[int(high)]),
        field_known=prediction.field is not None or model.reach is None,
        **_to_report(prediction, curve),
    )


def _to_report(prediction: _Prediction, curve: DepthCurve) -> dict[str, Any]:
    """The fields of an Outlook that are reported and decide nothing: of test, of val where there is no test split."""
    evidence, model, chosen = prediction.evidence, prediction.model, prediction.depths - 1
    metric = f"{curve.source}_accuracy"
    split = "test" if np.isfinite(evidence.curve(metric, "test")[chosen]).all() else "val"
    network = prediction.network(evidence.curve(metric, split)[chosen], split)
    log_error = prediction.log_errors(network.accuracy, network)
    expected = _accuracy(log_error)
    deviation = (1 - expected) * spread_of(model, log_error - log_error[-1])
    n = evidence.counts.get((metric, split), curve.n)
    low, high = accuracy_interval(expected, model.width * deviation, n)
    return {
        "expected": expected,
        "low": np.maximum(low, np.minimum(evidence.chance, expected)),
        "high": high,
        "deviation": deviation,
        "n": n,
        "full": network.full,
    }


def accuracy_interval(expected: np.ndarray, margin: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """90 % intervals (S,) of accuracies that were measured on ``n`` samples and of which the model leaves open
    ``margin`` (S,) to either side.

    The sampling error is that of Wilson's interval, which covers at accuracies near 1 and for few samples, too. The
    distances from the expected value are added by their squares (Zou and Donner 2008).
    """
    sampling = np.array([wilson_interval(float(value), n, Z90) for value in expected])
    low = expected - np.hypot(margin, expected - sampling[:, 0])
    high = expected + np.hypot(margin, sampling[:, 1] - expected)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def _error(accuracy: np.ndarray) -> np.ndarray:
    return np.maximum(1 - accuracy, MIN_ERROR)


def _accuracy(log_error: np.ndarray) -> np.ndarray:
    return 1 - np.minimum(np.exp(log_error), 1)


def _floor(chance: float, full: float) -> float:
    """The least accuracy that is predicted of a depth."""
    return min(chance, full)


def _with_spread(log_error: np.ndarray, model: SourceModel, seed: int) -> np.ndarray:
    """Accuracies (B, S) of networks whose log errors lie around the given ones as the model leaves it open."""
    noise = np.random.default_rng(seed + 1).standard_normal(log_error.shape)
    spread = spread_of(model, log_error - log_error[:, [-1]])
    return 1 - np.minimum(np.exp(log_error + spread * noise), 1)
