"""Whether the analyzed network has learned enough for its depth to be judged."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lwexplain.advice.curve import JOINT_STRATEGIES, DepthCurve, depth_curve, held_against_guess
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.signal import GuessTest
from lwexplain.intervals import wilson_interval

FAR_SHARE = 0.8
"""A head that reaches less than this share of what its probe reaches, both above guessing, is far below it. On the
networks of the depth tasks (tests/benchmarks/results/depth_oracle), trained to the end, no share was below 0.95."""

FAR_POINTS = 0.02
"""How far the intervals of both must lie apart, too: with one very frequent class little is left above guessing."""


@dataclass(frozen=True)
class OwnHead:
    """The network's own head, on val: a curve of a single depth, the last one, and its test against guessing."""

    curve: DepthCurve
    test: GuessTest

    @property
    def accuracy(self) -> float:
        return float(self.curve.accuracy[0])


@dataclass(frozen=True)
class BestProbe:
    """The linear probe that reads most, on val."""

    stage: str
    accuracy: float
    n: int


@dataclass(frozen=True)
class Learned:
    """What speaks for and against that the network has learned.

    ``depths`` tests the accuracies that depth is decided on, ``own_head`` is None where the network's own output was
    not measured, ``best_probe`` where there is no linear probe. ``problem`` is the verdict that follows: ``no_signal``,
    ``undertrained``, ``heads_too_weak``, or None.
    """

    depths: GuessTest
    own_head: OwnHead | None
    best_probe: BestProbe | None
    problem: str | None

    @property
    def paired(self) -> bool:
        """Whether all tests compare sample by sample."""
        return self.depths.paired and (self.own_head is None or self.own_head.test.paired)


def what_was_learned(
    table: pd.DataFrame, evidence: Evidence, curve: DepthCurve, tolerance: float, *, retrain: bool = True
) -> Learned:
    """Hold own head and probes against guessing and against each other, on val alone.

    Where all stages' own heads decide, one that beats guessing is enough; heads that do not, on features that a probe
    can read, are too weak. Where probes decide, the network's own head must beat guessing as well, or nothing was
    learned however readable its features are. A network that was trained by its last head, or by all heads together,
    is undertrained where that head lies far below the best probe. Without ``retrain``, where a cut network gets a fresh
    head, that is said of a head that guesses, too: what its features hold can be used as it is.
    """
    depths = GuessTest.of(curve, evidence.chance)
    own, probe = own_head(table, evidence, curve), best_probe(evidence, curve)
    trained_as_one = evidence.strategy in (None, "bp", *JOINT_STRATEGIES)
    far_below = own is not None and probe is not None and is_far_below(own, probe, evidence.chance)
    problem = None
    if curve.source == "head" and not depths.passed:
        problem = "heads_too_weak" if not trained_as_one and probe_beats_heads(table, tolerance) else "no_signal"
    elif not depths.passed or (curve.source != "head" and own is not None and not own.test.passed):
        problem = "undertrained" if depths.passed and far_below and not retrain else "no_signal"
    elif trained_as_one and far_below:
        problem = "undertrained"
    return Learned(depths, own, probe, problem)


def own_head(table: pd.DataFrame, evidence: Evidence, curve: DepthCurve) -> OwnHead | None:
    """The head of the last depth; None where it was not measured."""
    last = curve.depths[-1]
    accuracy = evidence.at("head_accuracy", last)
    if accuracy is None:
        return None
    known = held_against_guess(table, "head", last)
    n, against = known or (evidence.counts.get(("head_accuracy", "val"), curve.n), None)
    alone = DepthCurve("head", [curve.stages[-1]], [last], np.array([accuracy]), np.empty((0, 1)), n, against)
    return OwnHead(alone, GuessTest.of(alone, evidence.chance))


def best_probe(evidence: Evidence, curve: DepthCurve) -> BestProbe | None:
    """The best linear probe of the stages that are judged; None where none was measured."""
    accuracy = evidence.curve("linear_probe_accuracy")[np.array(curve.depths) - 1]
    if not np.isfinite(accuracy).any():
        return None
    at = int(np.nanargmax(accuracy))
    n = evidence.counts.get(("linear_probe_accuracy", "val"), curve.n)
    return BestProbe(curve.stages[at], float(accuracy[at]), n)


def is_far_below(own: OwnHead, probe: BestProbe, chance: float) -> bool:
    """True where the head surely lacks much of what the probe reads: as far as the 95 % intervals of both allow."""
    _, head = wilson_interval(own.accuracy, own.curve.n)
    reads, _ = wilson_interval(probe.accuracy, probe.n)
    return bool(reads - head > FAR_POINTS and head - chance < FAR_SHARE * (reads - chance))


def probe_beats_heads(table: pd.DataFrame, tolerance: float) -> bool:
    """True where a linear probe on some stage is surely better on val than every head, by more than the tolerance."""
    probes, heads = depth_curve(table, "val", "linear_probe"), depth_curve(table, "val", "head")
    if probes.empty or heads.empty:
        return False
    return bool(probes["low"].max() > heads["high"].max() + tolerance)
