"""The reason of a recommendation, in sentences that a person understands without the numbers beside it."""

from lwexplain.advice.curve import DepthCurve
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.learned import Learned
from lwexplain.advice.objective import budgets_in_words
from lwexplain.advice.outlook import Outlook
from lwexplain.advice.question import Question
from lwexplain.advice.signal import GuessTest

ENDINGS = {
    "stop_here": "the stages after it are not needed",
    "use_full_depth": "no shorter network can be expected to be as good",
    "go_deeper": "accuracy still rises at the last stage, so a deeper network is worth a try",
    "heads_too_weak": (
        "but a linear probe on the features beats every head, so the heads, not the depth, hold the network back"
    ),
    "undertrained": "but the network's own head does not use what its features hold, so train it further first",
}


def reason_for_depth(
    verdict: str,
    evidence: Evidence,
    curve: DepthCurve,
    outlook: Outlook,
    position: int,
    question: Question,
) -> str:
    """Why the depth at ``position`` is recommended."""
    best, points = outlook.best, f"{100 * question.tolerance:g} points"
    sentence = f"{_measured(evidence, curve, outlook, position, retrain=question.retrain)}, "
    if position == best:
        sentence += "the best of all depths"
    else:
        sentence += (
            f"{100 * (outlook.predicted[best] - outlook.predicted[position]):.2f} points below the best depth "
            f"({curve.stages[best]}, {percent(outlook.predicted[best])}) and within {points} of it with a probability "
            f"of {100 * outlook.sufficiency[position]:.0f} %"
        )
    if position > 0:
        before = f"one stage less ({curve.stages[position - 1]}, {percent(outlook.predicted[position - 1])})"
        chance = f"{100 * outlook.sufficiency[position - 1]:.0f} %"
        if outlook.sufficient[position - 1]:
            sentence += f"; {before} would be enough, too"
        else:
            sentence += f"; {before} stays within {points} of the best with a probability of {chance}"
    if not outlook.sufficient[position] and question.budgets:
        within = budgets_in_words(question.budgets)
        ending = f"within {within} no depth is surely good enough, and this is the most accurate"
    else:
        ending = ENDINGS[verdict]
    return f"{sentence}: {ending}.{_own_head_and_probe(evidence, curve)}"


def reason_without_depth(evidence: Evidence, curve: DepthCurve, learned: Learned) -> str:
    """Why no depth is recommended, and on which evidence."""
    own, probe = learned.own_head, learned.best_probe
    reads = "" if probe is None else f"a linear probe of {probe.stage} reaches {percent(probe.accuracy)}"
    if learned.problem == "undertrained":
        assert own is not None
        return (
            f"The network's own head reaches {percent(own.accuracy)} on {own.curve.n:,} val samples, but {reads}: the "
            "network does not use what its own features hold, so its depth cannot be judged yet; train it further."
            f"{_balanced(evidence, curve)}"
        )
    if curve.source != "head" and own is not None and not own.test.passed:
        beyond = f" Its features can be read ({reads}), but those of an untrained network can, too." if reads else ""
        return (
            f"The network's own head reaches {percent(own.accuracy)} on {own.curve.n:,} val samples, "
            f"{_against_guess(own.test, 0)}: the network has learned nothing to choose a depth by.{beyond}"
            f"{_balanced(evidence, curve)}"
        )
    sentence = (
        f"The best depth reaches {percent(curve.accuracy[curve.best])} on {curve.n:,} val samples, "
        f"{_against_guess(learned.depths, curve.best)}"
    )
    if learned.problem == "heads_too_weak":
        assert probe is not None
        best = f"a linear probe on the features reaches {percent(probe.accuracy)}"
        return f"{sentence}, but {best}: the heads hold the network back.{_balanced(evidence, curve)}"
    return f"{sentence}: there is no signal to choose a depth by.{_balanced(evidence, curve)}"


def _balanced(evidence: Evidence, curve: DepthCurve) -> str:
    """Own head and probe once more where classes are uneven, with their balanced accuracies."""
    return _own_head_and_probe(evidence, curve) if evidence.unevenness else ""


def _own_head_and_probe(evidence: Evidence, curve: DepthCurve) -> str:
    """What the whole network's own head and a linear probe of its last stage reach on val, and balanced over the
    classes where these are uneven; "" where neither was measured."""
    parts = []
    for name, metric in (("the network's own head", "head"), ("a linear probe of its last stage", "linear_probe")):
        value = evidence.at(f"{metric}_accuracy", curve.depths[-1])
        if value is None:
            continue
        balanced = evidence.at(f"{metric}_balanced_accuracy", curve.depths[-1])
        shown = evidence.unevenness and balanced is not None
        parts.append(f"{name} reaches {percent(value)}" + (f" (balanced {percent(balanced)})" if shown else ""))
    return f" On val {' and '.join(parts)}." if parts else ""


def notes_on(evidence: Evidence, learned: Learned) -> list[str]:
    """What a reader of the advice must know of the evidence."""
    notes = [evidence.unevenness] if evidence.unevenness else []
    if not learned.paired:
        notes.append(
            "the table does not say which val samples are of the most frequent class, so that accuracies are held "
            "against its share and not against guessing it, sample by sample; lwexplain analyze makes it anew"
        )
    if not evidence.is_layer_wise:
        notes.append(
            "the heads were trained together (deep supervision): later heads shaped the early stages, so that a head "
            "tells where this network can be cut, not what a shorter one would reach by itself"
        )
    return notes


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _against_guess(test: GuessTest, position: int) -> str:
    """How the accuracy of a depth that does not beat the guess stands to it."""
    accuracy, chance = float(test.curve.accuracy[position]), test.chance
    order = "not surely above" if accuracy > chance else "not above"
    guess = f"{order} the {percent(chance)} of always guessing the most frequent class"
    if test.curve.against_guess is None:
        return guess
    won, lost = test.curve.against_guess[:, position]
    return (
        f"{guess} (it alone is right on {won:,.0f} samples, the guess alone on {lost:,.0f}; p = {_p(test.p[position])})"
    )


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "below 0.0001"


def _measured(evidence: Evidence, curve: DepthCurve, outlook: Outlook, position: int, *, retrain: bool) -> str:
    """What the accuracy of a depth is and what it comes from."""
    where = f"{curve.stages[position]} (stage {curve.depths[position]} of {curve.depths[-1]})"
    accuracy = percent(outlook.predicted[position])
    is_last = position == len(curve.stages) - 1
    if is_last and curve.source != "head":
        own = evidence.at("head_accuracy", curve.depths[-1]) is not None
        head = " with its own head" if own else " by a linear probe, its own head being unknown"
        return f"The full depth, {where}, reaches {accuracy}{head} on {curve.n:,} val samples"
    if curve.source == "head" or not retrain:
        head = "its own head" if curve.source == "head" else "a linear probe for a head"
        return f"With {head}, {where} reaches {accuracy} on {curve.n:,} val samples"
    seen = "its receptive field is not known"
    if outlook.field_known:
        field = evidence.curve("receptive_field", "none")[curve.depths[position] - 1]
        seen = f"its receptive field is {field:.0f} pixels in images of {evidence.side}"
    return (
        f"Trained anew, the network up to {where} is expected to reach {accuracy} on val (a linear probe of that stage "
        f"reaches {percent(float(curve.accuracy[position]))} on {curve.n:,} samples, {seen})"
    )
