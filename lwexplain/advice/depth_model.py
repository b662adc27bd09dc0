"""The fitted part of the advice: how accurate a network of each depth is likely to be once it is trained anew.

From the measurements of one trained network of S stages. Where every stage has a head that it was trained through, the
network cut there is the network in question, and its head's accuracy the estimate. Where only the last stage has one
(global back-propagation), a linear probe of an early stage says how much of the answer lies there in linear form - not
what the stages up to there could reach if the loss stood right behind them, which is far more: they would then be
trained to be read out. What they cannot make up for is what they do not see. So the model is, for the errors e of the
retrained networks, the errors p of the probes and the receptive field f of stage d in an image of side a,

    log e_d / e_S = slope * log+ (p_d / p_*) * log+ (reach * a / f_d),        log+ x = max(0, log x)

with p_* the error of the last probe or of the network's own head, whichever is smaller: a last probe that collapsed
says nothing of what the network reaches. A stage whose probe is as good needs nothing more, nor does one whose
receptive field is ``reach`` times the image; between these the gap of the probe counts the more, the less of the image
the stage sees. Where the receptive field is not known the gap counts in full (log e_d / e_S = log+ p_d / p_*), as for a
stage that sees a small part of the image.

``slope``, ``reach``, the spread of the truth around the model and the caution of a decision (of heads: set, not fitted)
come from networks that were retrained at every depth, by ``tests/benchmarks/depth_scores.py --fit``, and lie in
``depth_model.json`` beside this file.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lwexplain.errors import AdviceError

COEFFICIENTS = Path(__file__).with_name("depth_model.json")

TIE = 0.005
"""Modelled ratios below this, half a percent of an error, are none."""

SLACK = 1e-9
"""Room for rounding where a number lies on its limit exactly."""

MIN_ERROR = 1e-3
"""Errors below are taken as this: a perfect score on val is no perfect network."""


@dataclass(frozen=True)
class SourceModel:
    """The coefficients of one source of evidence.

    ``spread`` and ``spread_slope``: standard deviation of ``log e_d`` around the model, ``spread`` + ``spread_slope`` *
    ``log e_d / e_S``; ``width``: how many of them the 90 % interval of an accuracy reaches to either side, beside the
    sampling error of the accuracy;
    ``caution``: how many of them are added to a predicted loss before it is held against the tolerance. ``slope`` and
    ``reach`` as above; without ``reach`` the accuracies of the source are those of the networks, as those of local
    heads are.
    """

    spread: float
    spread_slope: float
    width: float
    caution: float
    slope: float = 1.0
    reach: float | None = None


@dataclass(frozen=True)
class DepthModel:
    """The coefficients of both sources, the gain of accuracy a stage must bring for layer-wise training to go on
    (``rules.stop_training``), and the tasks all were fitted on."""

    head: SourceModel
    linear_probe: SourceModel
    stop_gain: float
    tasks: tuple[str, ...] = ()

    def of(self, source: str) -> SourceModel:
        """The coefficients for ``head`` or ``linear_probe``."""
        model: SourceModel = getattr(self, source)
        return model

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "DepthModel":
        sources = {name: SourceModel(**content[name]) for name in ("head", "linear_probe")}
        return cls(**sources, stop_gain=float(content["stop_gain"]), tasks=tuple(content["tasks"]))


@cache
def shipped_model() -> DepthModel:
    """The model that comes with the package."""
    try:
        return DepthModel.from_dict(json.loads(COEFFICIENTS.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdviceError(
            f"the coefficients {COEFFICIENTS} cannot be read ({error!r}); install lwexplain anew"
        ) from None


def log_error_ratio(
    model: SourceModel,
    accuracy: np.ndarray,
    field: np.ndarray | None,
    side: float,
    reference: np.ndarray | float | None = None,
) -> np.ndarray:
    """``log e_d / e_S`` (..., S) of networks retrained at every depth, from the accuracies (..., S) of their probes.

    ``field`` (S,) the receptive fields in pixels and ``side`` that of the image, or ``field`` None where they are not
    known. The gaps of the probes are those to ``reference`` (...,), the last probe where that is None. The full depth
    is the network itself: its ratio is 0.
    """
    error = np.maximum(1 - accuracy, MIN_ERROR)
    against = error[..., -1] if reference is None else np.maximum(1 - np.asarray(reference), MIN_ERROR)
    ratio = np.maximum(np.log(error / against[..., None]), 0)
    if field is not None and model.reach is not None:
        ratio = model.slope * ratio * np.maximum(np.log(model.reach * side / field), 0)
        ratio = np.where(ratio < TIE, 0.0, ratio)
    ratio[..., -1] = 0
    return ratio


def is_enough(model: SourceModel, log_error: np.ndarray, tolerance: float) -> np.ndarray:
    """Which of S depths (S,) bool lose no more than ``tolerance`` against the best one, with the model's caution.

    ``log_error`` (S,) is what the model predicts. The loss held against the tolerance is that of a depth whose log
    error lies ``caution`` standard deviations above the predicted one; the best depth, and any that is predicted to be
    as good, is enough.
    """
    behind = log_error - log_error.min()
    loss = np.exp(log_error.min()) * (np.exp(behind + model.caution * spread_of(model, behind)) - 1)
    return (behind <= SLACK) | (loss <= tolerance + SLACK)


def spread_of(model: SourceModel, log_ratio: np.ndarray) -> np.ndarray:
    """Standard deviation of the logarithm of an error around the model, of the shape of ``log_ratio``."""
    return model.spread + model.spread_slope * np.abs(log_ratio)
