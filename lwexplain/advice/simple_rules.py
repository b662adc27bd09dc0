"""The simple rules of the literature for where to stop: what measured advice has to beat.

Each takes the evidence of one run and returns the position, from 0, of the last stage to keep, or None where what it
reads was not measured. All of them read val (or what needs no data), never test. A stage without a value of the
measure (NaN) takes no part and is never chosen. Where a paper gives no number, the docstring says what is read into it.

``rules_beside`` applies them all to one table: where each would stop, to be shown beside a recommendation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lwexplain.advice.evidence import Evidence

SLACK = 1e-12  # thresholds are met in spite of rounding


def always_full(evidence: Evidence) -> int:
    """Keep every stage: what is done where nobody asks about depth."""
    return len(evidence.stages) - 1


def middle(evidence: Evidence) -> int:
    """Keep the first half of the stages, the middle one included, whatever was measured."""
    return (len(evidence.stages) - 1) // 2


def probe_share_of_best(evidence: Evidence, share: float = 0.98) -> int | None:
    """First stage whose probe reaches ``share`` of the best accuracy.

    Masarczyk et al. 2023 ("The Tunnel Effect"): from the layer on where linear probes saturate, a network only
    compresses; that layer ends the extractor. Saturated is taken to be 98 % of the accuracy; of the best stage rather
    than of the network's output, which is the same where probes do not fall again.
    """
    accuracy = accuracy_curve(evidence)
    if accuracy is None:
        return None
    return _first(accuracy >= share * accuracy.max() - SLACK)


def one_standard_error(evidence: Evidence) -> int | None:
    """First stage whose probe is within one standard error of the best.

    Breiman et al. 1984 ("Classification and Regression Trees", 1-SE rule): of models of growing size, the smallest
    whose estimated error is within one standard error of the least. The error is binomial: sqrt(a (1 - a) / n) with
    a the best accuracy on n samples of val.
    """
    accuracy, n = accuracy_curve(evidence), evidence.counts.get((accuracy_metric(evidence), "val"))
    if accuracy is None or not n:
        return None
    best = accuracy.max()
    return _first(accuracy >= best - np.sqrt(best * (1 - best) / n) - SLACK)


def effective_depth(evidence: Evidence, epsilon: float = 0.01) -> int | None:
    """First stage whose nearest-class-mean classifier errs at most ``epsilon`` more often than the last stage's.

    Galanti et al. 2022 ("On the implicit bias towards minimal depth"): the effective depth is the first layer whose
    error is at most epsilon on train, with epsilon chosen by the hardness of the task. There the last layer's error is
    about 0. On val it is not, and a fixed epsilon would seldom be met by any stage, so it is added to the last layer's.
    One point is small beside the errors of val and no less than their sampling error on a few thousand images.
    """
    found = _measured(evidence, "ncm_accuracy")
    if found is None:
        return None
    positions, accuracy = found
    return int(positions[_first(accuracy >= accuracy[-1] - epsilon - SLACK)])


def saturation_tail(evidence: Evidence, share: float = 0.5) -> int | None:
    """Last stage before the run of low saturation at the end.

    Shenk et al. 2020, Richter et al. 2021 ("Feature space saturation during training", the package delve): layers of
    the tail, whose features span few directions for their width, do not add to the result. They are told by eye in
    plots. Here low is below half of the mean over all stages: a mean follows the width of the network, which moves the
    saturation of all layers, and is not pulled down into the tail as a median is where the tail is the longer part.
    """
    found = _measured(evidence, "saturation")
    if found is None:
        return None
    positions, saturation = found
    return int(positions[_last(saturation >= share * saturation.mean() - SLACK)])


def receptive_field_border(evidence: Evidence) -> int | None:
    """Last stage before the border, where the input of a stage sees more than the image.

    Richter et al. 2021 ("Should you go deeper?"): convolutions from the border layer on are unproductive. Fully
    connected layers after pooling (NaN), about which the rule says nothing, are kept unless a border comes before them.
    None where no stage has a receptive field. At least the first stage is kept.
    """
    beyond = evidence.curve("beyond_border", "none")
    if not np.isfinite(beyond).any():
        return None
    border = np.flatnonzero(beyond == 1)
    return max(0, int(border[0]) - 1) if len(border) else len(beyond) - 1


def gdv_knee(evidence: Evidence) -> int | None:
    """Knee of the generalized discrimination value, which falls with better separation.

    Schilling et al. 2021 ("Quantifying the separability of data classes in neural networks") tune the depth by it:
    separability improves, and past the best layer falls again. The curve is therefore read up to its best stage. Its
    knee is the point farthest above the chord, both axes scaled to [0, 1] (Kneedle, Satopaa et al. 2011); where none
    is above, as in networks that separate most in their last stages, there is no knee and the best stage is kept.
    Kneedle's further test, that a knee stands out by a step 1/(stages - 1), is left out: it is made for curves of many
    points, and on five to ten it leaves hardly a knee.
    """
    found = _measured(evidence, "gdv")
    if found is None:
        return None
    best = int(np.argmin(found[1]))
    if best == 0:
        return int(found[0][0])
    positions, gdv = (part[: best + 1] for part in found)
    depth = (positions - positions[0]) / (positions[-1] - positions[0])
    above_chord = (gdv[0] - gdv) / (gdv[0] - gdv[-1]) - depth
    knee = int(np.argmax(above_chord))
    return int(positions[knee if above_chord[knee] > SLACK else best])


def separability_plateau(evidence: Evidence, share: float = 0.99) -> int | None:
    """First stage whose separability index is within 1 % of the best.

    Kalhor and others' separation index (the share of samples whose nearest neighbour has their label; Thornton 1998),
    which they use to see what layers add. No number is given for where it stops rising. 1 % is of the best value, not
    of the range: the range depends on how bad the first stage is, and 1 % of it is less than the sampling error.
    """
    found = _measured(evidence, "separability_index")
    if found is None:
        return None
    positions, index = found
    return int(positions[_first(index >= share * index.max() - SLACK)])


def separation_law_break(evidence: Evidence, share: float = 0.5) -> int | None:
    """Last stage that still follows the fall of log tr(Sw pinv(Sb)) in a straight line.

    He and Su 2023 ("A law of data separation in deep learning"): each layer of a trained network separates by the same
    factor; a layer that does not is of no use. They judge by the correlation with a straight line, not stage by stage.
    Here the line runs from the first stage to the lowest, and a stage follows it if it falls by at least half of the
    line's slope. Stages of infinite value (coinciding class means) take no part; 0 (full collapse) is the lowest.
    """
    law = evidence.curve("separation_law")
    positions = np.flatnonzero(np.isfinite(law))
    if not len(positions):
        return None
    logarithm = np.log(np.maximum(law[positions], np.finfo(float).tiny))
    lowest = int(np.argmin(logarithm))
    if lowest == 0:
        return int(positions[0])
    slope = (logarithm[lowest] - logarithm[0]) / (positions[lowest] - positions[0])
    falls = np.diff(logarithm[: lowest + 1]) / np.diff(positions[: lowest + 1])
    return int(positions[1 + _last(falls <= share * slope + SLACK)])


def gain_below_threshold(evidence: Evidence, threshold: float = 0.005, patience: int = 2) -> int | None:
    """First stage after which the next ``patience`` stages together gain less than ``threshold`` accuracy.

    Wen et al. 2020 (AutoGrow) grow until the accuracy gains less than 0.05 points within an interval of epochs, on
    test. Here growth is by trained stages and on val, whose sampling error is larger than that threshold, so that half
    a point over two stages is asked for. Towards the end fewer stages than ``patience`` are left, and those decide.
    """
    accuracy = accuracy_curve(evidence)
    if accuracy is None:
        return None
    for position in range(len(accuracy) - 1):
        if accuracy[position + 1 : position + 1 + patience].max() - accuracy[position] < threshold - SLACK:
            return position
    return len(accuracy) - 1


@dataclass(frozen=True)
class SimpleRule:
    """A rule by name: ``position`` is one of the functions above, ``does`` says in a sentence what that does, and
    ``needs`` what it reads ("" for nothing; ``{accuracy}`` stands for the accuracy that the network is judged by)."""

    name: str
    position: Callable[[Evidence], int | None]
    does: str
    needs: str = ""

    def __call__(self, evidence: Evidence) -> int | None:
        return self.position(evidence)


SIMPLE_RULES: dict[str, SimpleRule] = {
    rule.name: rule
    for rule in (
        SimpleRule("always full", always_full, "keeps every stage"),
        SimpleRule("middle", middle, "keeps the first half of the stages, whatever was measured"),
        SimpleRule(
            "probe at 98 % of best",
            probe_share_of_best,
            "stops at the first stage that reaches 98 % of the best accuracy",
            "{accuracy} at every stage",
        ),
        SimpleRule(
            "one standard error",
            one_standard_error,
            "stops at the first stage within one standard error of the best accuracy",
            "{accuracy} at every stage, with its number of samples",
        ),
        SimpleRule(
            "nearest-class-mean effective depth",
            effective_depth,
            "stops where the nearest class mean errs at most 1 % more than at the end",
            "ncm_accuracy",
        ),
        SimpleRule(
            "saturation tail",
            saturation_tail,
            "drops the last stages whose features use few of their directions",
            "saturation",
        ),
        SimpleRule(
            "receptive-field border",
            receptive_field_border,
            "drops the stages whose input already sees more than the image",
            "beyond_border",
        ),
        SimpleRule(
            "knee of GDV",
            gdv_knee,
            "stops at the bend of the generalized discrimination value",
            "gdv",
        ),
        SimpleRule(
            "plateau of separability index",
            separability_plateau,
            "stops at the first stage within 1 % of the best separability index",
            "separability_index",
        ),
        SimpleRule(
            "break of separation law",
            separation_law_break,
            "stops where the classes no longer separate at a steady rate",
            "separation_law",
        ),
        SimpleRule(
            "gain below threshold",
            gain_below_threshold,
            "stops where the next two stages gain less than half a point of accuracy",
            "{accuracy} at every stage",
        ),
    )
}


@dataclass(frozen=True)
class RuleStop:
    """Where a simple rule stops: the last ``stage`` that it keeps and its ``depth`` (from 1).

    Both are None where the rule cannot be applied because the table lacks what it reads; ``lacks`` names that, and is
    "" otherwise. ``does`` says in a sentence what the rule does.
    """

    rule: str
    does: str
    stage: str | None
    depth: int | None
    lacks: str


def rules_beside(table: pd.DataFrame) -> list[RuleStop]:
    """Where each of ``SIMPLE_RULES`` would stop on the table that ``lw.analyze`` or ``lw.analyze_model`` returned.

    Nothing here takes part in a recommendation. Raises AdviceError where the table names no stages.
    """
    evidence = Evidence.of(table)
    return [_stop(rule, evidence) for rule in SIMPLE_RULES.values()]


def _stop(rule: SimpleRule, evidence: Evidence) -> RuleStop:
    position = rule(evidence)
    if position is None:
        return RuleStop(rule.name, rule.does, None, None, rule.needs.format(accuracy=accuracy_metric(evidence)))
    return RuleStop(rule.name, rule.does, evidence.stages[position], position + 1, "")


def accuracy_metric(evidence: Evidence) -> str:
    """Whose accuracy the rules on probes read: ``head_accuracy`` where every stage has a head and was trained by it
    alone, as in layer-wise runs, else ``linear_probe_accuracy``."""
    local = evidence.has("head_accuracy") and evidence.is_layer_wise
    return "head_accuracy" if local else "linear_probe_accuracy"


def accuracy_curve(evidence: Evidence) -> np.ndarray | None:
    """float64 (S,) accuracy on val by depth, of heads or probes; None where a stage has neither."""
    metric = accuracy_metric(evidence)
    return evidence.curve(metric) if evidence.has(metric) else None


def _measured(evidence: Evidence, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Positions of the stages with a finite value on val, and the values; None where there are none."""
    curve = evidence.curve(metric)
    positions = np.flatnonzero(np.isfinite(curve))
    return (positions, curve[positions]) if len(positions) else None


def _first(true: np.ndarray) -> int:
    return int(np.argmax(true))


def _last(true: np.ndarray) -> int:
    return len(true) - 1 - int(np.argmax(true[::-1]))
