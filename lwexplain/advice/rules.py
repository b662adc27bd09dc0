"""Depth rules: from a depth curve to a depth. Decisions see val only."""

from dataclasses import dataclass

import numpy as np

from lwexplain.advice.curve import DepthCurve, curve_of_hits

CONFIDENCE = 0.9
"""Share of the resamples in which a depth must hold its promise."""

SLACK = 1e-9
"""Room for rounding where an accuracy lies on the tolerance exactly."""


@dataclass(frozen=True)
class Choice:
    """A chosen position on the curve and what speaks for it.

    ``interval`` the depths a 90 % interval spans, ``support`` (S,) the share of resamples in which each depth is not
    worse than the best one, ``gap`` the accuracy that the chosen depth lacks to the best one.
    """

    position: int
    interval: tuple[int, int]
    support: np.ndarray
    gap: float


def non_inferior_depth(curve: DepthCurve, tolerance: float) -> Choice:
    """The smallest depth that is not worse than the best depth by more than ``tolerance``.

    Not worse: in at least CONFIDENCE of the paired bootstrap resamples the accuracy of the best depth exceeds it by
    no more than the tolerance. The interval holds the central 90 % of the smallest sufficient depths that single
    resamples would choose.
    """
    best = curve.best
    gaps = curve.resampled[:, [best]] - curve.resampled
    support = (gaps <= tolerance + SLACK).mean(axis=0)
    position = int(np.argmax(support >= CONFIDENCE))
    sufficient = curve.resampled.max(axis=1, keepdims=True) - curve.resampled <= tolerance + SLACK
    low, high = np.quantile(sufficient.argmax(axis=1), [0.05, 0.95], method="nearest")
    interval = (curve.depths[min(int(low), position)], curve.depths[max(int(high), position)])
    return Choice(position, interval, support, float(curve.accuracy[best] - curve.accuracy[position]))


def has_signal(curve: DepthCurve, chance: float) -> bool:
    """True where the best depth beats guessing the most frequent class by more than three standard errors.

    Three rather than two, because the best of several depths is looked at.
    """
    accuracy = float(curve.accuracy[curve.best])
    error = np.sqrt(max(accuracy * (1 - accuracy), chance * (1 - chance)) / curve.n)
    return bool(accuracy > chance + 3 * error)


def still_rising(curve: DepthCurve, tolerance: float) -> bool:
    """True where the last stage alone surely gains more than ``tolerance`` over every depth before it."""
    if len(curve.stages) < 2:
        return False
    gain = curve.resampled[:, [-1]] - curve.resampled[:, :-1]
    return bool((gain > tolerance + SLACK).mean(axis=0).min() >= CONFIDENCE)


def stop_training(hits: list[np.ndarray], chance: float, tolerance: float = 0.005, patience: int = 2) -> str | None:
    """Whether greedy training may stop after the stages so far; the reason, or None to go on.

    ``hits``: which val samples (N,) bool each trained stage got right. Training stops at once where the stages find no
    signal, and where the last ``patience`` stages together gain less than ``tolerance``: in more than half of the
    paired bootstrap resamples the last stage is not that much better than the one ``patience`` before it. (AutoGrow,
    Wen et al. 2020, stops on such a gain too, but reads the accuracy on test.)
    """
    curve = curve_of_hits(hits)
    if not has_signal(curve, chance):
        return f"no signal: {curve.accuracy.max():.1%} on val after {_stages(len(hits))}, by chance {chance:.1%}"
    if len(hits) <= patience:
        return None
    gain = curve.resampled[:, -1] - curve.resampled[:, -1 - patience]
    if (gain < tolerance).mean() <= 0.5:
        return None
    depth = curve.depths[non_inferior_depth(curve, tolerance).position]
    return (
        f"the last {patience} stages together gain {100 * (curve.accuracy[-1] - curve.accuracy[-1 - patience]):.2f} "
        f"points on val, less than {100 * tolerance:g}; depth {depth} is enough"
    )


def _stages(count: int) -> str:
    return "1 stage" if count == 1 else f"{count} stages"
