"""Where layer-wise training would have stopped by itself, played back from runs that trained all stages."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from depth_cases import Case, Unit

from lwexplain.advice.rules import stop_training
from lwexplain.table import TableInfo

GAINS = (0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01)
TIME = 0.012
"""What the time of a whole training is worth in the choice of the gain, as accuracy: a quarter of it, 0.3 points."""


def fit_stop_gain(cases: Sequence[Case]) -> float:
    """The gain of a stage, of GAINS, below which stopping pays most on these layer-wise tasks."""
    return max(GAINS, key=lambda gain: np.mean([_worth(case, gain) for case in cases]))


def _worth(case: Case, gain: float) -> float:
    found = [saved_and_lost(unit, stopped_after(unit, gain)) for unit in case.units]
    return float(np.mean([TIME * saved - lost for saved, lost in found]))


@cache
def stopped_after(unit: Unit, gain: float) -> int:
    """Number of stages that ``training.stop=auto`` would have trained."""
    pattern = TableInfo.of(unit.table).patterns["head"]
    counts = list(pattern["counts"].values())
    right = np.repeat([[character == "1" for character in key] for key in pattern["counts"]], counts, axis=0)
    for depth in range(1, right.shape[1] + 1):
        if stop_training(list(right[:, :depth].T), TableInfo.of(unit.table).chance, gain) is not None:
            return depth
    return int(right.shape[1])


def saved_and_lost(unit: Unit, depth: int) -> tuple[float, float]:
    """Share of the seconds of all stages, and test accuracy lost: each by its best depth on val."""
    chosen, best = int(np.argmax(unit.val_accuracy[:depth])), int(np.argmax(unit.val_accuracy))
    saved = unit.seconds[depth:].sum() / unit.seconds.sum()
    return float(saved), float(unit.test_accuracy[best] - unit.test_accuracy[chosen])
