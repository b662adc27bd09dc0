"""Two rules that watch training and analysis: is there any signal, and is another stage worth training?"""

import numpy as np

from lwexplain.advice.curve import DepthCurve, curve_of_hits
from lwexplain.advice.depth_model import shipped_model
from lwexplain.advice.signal import GuessTest

CONFIDENCE = 0.9
"""How sure a verdict must be that calls for more than it has seen."""


def has_signal(curve: DepthCurve, chance: float) -> bool:
    """True where a depth surely beats guessing the most frequent class, which is right on the share ``chance``."""
    return GuessTest.of(curve, chance).passed


def stop_training(
    hits: list[np.ndarray],
    chance: float,
    gain: float | None = None,
    patience: int = 2,
    *,
    frequent: np.ndarray | None = None,
) -> str | None:
    """Whether greedy training may stop after the stages so far; the reason, or None to go on.

    ``hits``: which val samples (N,) bool each trained stage got right; ``frequent`` (N,) bool: which are of the most
    frequent class, whose share is ``chance``. Training stops at once where the stages find no signal, and where the
    last ``patience`` stages bring less than ``gain`` each (by default the fitted one, see ``depth_model.py``): in more
    than half of the paired bootstrap resamples the last stage is not ``patience`` times that much better than the one
    ``patience`` before it. (AutoGrow, Wen et al. 2020, stops on such a gain too, but reads the accuracy on test.)
    """
    least = shipped_model().stop_gain if gain is None else gain
    curve = curve_of_hits(hits, frequent)
    if not has_signal(curve, chance):
        return f"no signal: {curve.accuracy.max():.1%} on val after {_stages(len(hits))}, by chance {chance:.1%}"
    if len(hits) <= patience:
        return None
    gained = curve.resampled[:, -1] - curve.resampled[:, -1 - patience]
    if (gained < patience * least).mean() <= 0.5:
        return None
    return (
        f"the last {patience} stages together gain {100 * (curve.accuracy[-1] - curve.accuracy[-1 - patience]):.2f} "
        f"points on val, less than {100 * least:g} each"
    )


def _stages(count: int) -> str:
    return "1 stage" if count == 1 else f"{count} stages"
