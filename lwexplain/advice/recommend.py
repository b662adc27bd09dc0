"""The recommendation: at which stage to stop, how sure that is, what it saves, and why."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from lwexplain.advice.curve import DepthCurve, bootstrap_curve, decision_source, depth_curve
from lwexplain.advice.depth_model import SLACK, DepthModel, shipped_model
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.learned import Learned, probe_beats_heads, what_was_learned
from lwexplain.advice.objective import choose
from lwexplain.advice.outlook import Outlook, outlook_of
from lwexplain.advice.prospects import Prospect
from lwexplain.advice.question import Question
from lwexplain.advice.reason import notes_on, reason_for_depth, reason_without_depth
from lwexplain.advice.rules import CONFIDENCE
from lwexplain.costs import COSTS

VERDICTS = ("stop_here", "use_full_depth", "go_deeper", "heads_too_weak", "undertrained", "no_signal")


@dataclass(frozen=True)
class Recommendation:
    """Depth advice.

    ``stage`` and ``depth`` (from 1) of the last stage to keep, None where nothing beats guessing (``no_signal``, or
    ``heads_too_weak`` where linear probes do) and where an ``undertrained`` network says nothing of one trained anew;
    ``depth_interval`` the central 90 % of the depths that draws of the evidence would choose. ``expected_accuracy`` in
    [0, 1] is that of the shorter network once it is trained as the analyzed one was, with its 90 % interval, and
    ``full_accuracy`` that of the analyzed network; both on test (val where there is no test split), which takes no part
    in the choice. ``ratios`` are the shorter network's cost over the full network's, heads included, by the name of the
    cost (``params``, ``flops``, ``latency``, ``memory``; see ``lwexplain.costs``); None where it was not measured. Each
    is an attribute as well, by the name it has in ``to_dict`` and JSON: ``params_ratio``, ``flops_ratio``,
    ``latency_ratio``, ``memory_ratio``. ``source`` says what the accuracies of the depths come from: ``head`` or
    ``linear_probe``. ``prospects`` holds every depth, among which ``objective`` and ``budgets`` (most parameters,
    FLOPs, seconds, bytes) chose.

    All on val, None where not measured: ``chance``, the accuracy of always guessing the most frequent class;
    ``balanced_accuracy`` of ``source`` at the recommended depth; ``own_head_accuracy`` and ``own_probe_accuracy``, of
    the whole network's own head and of a linear probe of its last stage, and their balanced accuracies. ``notes`` say
    what a reader must know of the evidence.

    Examples:
        >>> advice = lw.recommend("runs/digits")
        >>> sorted(advice.to_dict())[:3]
        ['balanced_accuracy', 'budgets', 'chance']
    """

    verdict: str
    stage: str | None
    depth: int | None
    depth_interval: tuple[int, int] | None
    tolerance: float
    expected_accuracy: float | None
    expected_accuracy_interval: tuple[float, float] | None
    full_accuracy: float | None
    ratios: Mapping[str, float | None]
    reason: str
    source: str
    full_depth: int
    objective: str
    budgets: dict[str, float]
    prospects: list[Prospect]
    chance: float
    balanced_accuracy: float | None
    own_head_accuracy: float | None
    own_head_balanced_accuracy: float | None
    own_probe_accuracy: float | None
    own_probe_balanced_accuracy: float | None
    notes: list[str]

    def __getattr__(self, name: str) -> float | None:
        """A ratio by the name of its cost: ``latency_ratio`` is ``ratios["latency"]``."""
        cost, _, ending = name.rpartition("_")
        if ending == "ratio" and cost in self.ratios:
            return self.ratios[cost]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}", name=name, obj=self)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(f"{cost}_ratio" for cost in self.ratios)]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values; ``params_ratio``, ``flops_ratio``, ... in the place of ``ratios``."""
        found: dict[str, Any] = {}
        for item in fields(self):
            if item.name == "ratios":
                found |= {f"{cost}_ratio": ratio for cost, ratio in self.ratios.items()}
            else:
                found[item.name] = copy.deepcopy(getattr(self, item.name))
        return found | {"prospects": [prospect.to_dict() for prospect in self.prospects]}


def recommend(
    table: pd.DataFrame,
    question: Question | None = None,
    *,
    model: DepthModel | None = None,
    seed: int = 0,
) -> Recommendation:
    """The answer to a question (the usual one where none is given): by default the cheapest depth whose network,
    trained anew, is not worse than the best depth's by more than the tolerance.

    With ``retrain`` False: where the trained network can be cut as it stands. In layer-wise runs that is the same
    question; in others the cut network gets a fresh linear head, which reads less out of early stages than training
    them for it would, or keeps its own one where every stage has one (deep supervision).

    ``table`` is what ``lw.analyze`` returned, or part of its stages. Layer-wise runs, where every stage has a head, are
    judged by their heads; others by linear probes, receptive fields and a model fitted to networks that were retrained
    at every depth (``advice/depth_model.py``; ``model`` replaces the shipped one). Deep supervision counts among the
    others: its early stages were shaped by later heads. Decisions read val only.

    No depth is recommended where the network's own output is no better than a constant guess, and none to train where
    it lies far below what a linear probe reads from the network's own features (``advice/learned.py``).

    Of the depths that are good enough the one with the least cost is recommended, or whichever is most accurate, as the
    objective of the question says. Where no depth within its budgets is good enough, the most accurate of them is
    recommended and the reason says so.

    Raises AdviceError where the table lacks the evidence, or nothing fits the budgets.
    """
    question = question or Question()
    tolerance, retrain = question.tolerance, question.retrain
    asked: dict[str, Any] = {
        "tolerance": tolerance,
        "objective": question.objective,
        "budgets": dict(question.budgets),
    }
    curve = bootstrap_curve(table, decision_source(table, retrain=retrain), seed=seed)
    evidence = Evidence.of(table)
    learned = what_was_learned(table, evidence, curve, tolerance, retrain=retrain)
    about = _about_network(evidence, curve, learned) | asked
    if learned.problem is not None and (retrain or learned.problem != "undertrained"):
        return _without_depth(learned.problem, reason_without_depth(evidence, curve, learned), evidence, about)
    coefficients = (model or shipped_model()).of(curve.source if retrain else "head")
    outlook = outlook_of(evidence, curve, coefficients, tolerance, seed=seed)
    prospects = _prospects(evidence, curve, outlook)
    position = choose(prospects, question)
    verdict = learned.problem or _verdict(table, curve, outlook, position, tolerance)
    chosen, full = prospects[position], prospects[-1]
    low, high = outlook.interval
    reason = reason_for_depth(verdict, evidence, curve, outlook, position, question)
    return Recommendation(
        verdict=verdict,
        stage=chosen.stage,
        depth=chosen.depth,
        depth_interval=(min(low, chosen.depth), max(high, chosen.depth)),
        expected_accuracy=chosen.expected_accuracy,
        expected_accuracy_interval=chosen.expected_accuracy_interval,
        full_accuracy=outlook.full,
        ratios={cost: _ratio(chosen.cost(cost), full.cost(cost)) for cost in COSTS},
        reason=reason,
        prospects=prospects,
        balanced_accuracy=chosen.balanced_accuracy,
        **about,
    )


def _about_network(evidence: Evidence, curve: DepthCurve, learned: Learned) -> dict[str, Any]:
    """The fields that say what the whole network is judged by and what it reaches on val."""
    last = curve.depths[-1]
    return {
        "source": curve.source,
        "full_depth": last,
        "chance": evidence.chance,
        "own_head_accuracy": evidence.at("head_accuracy", last),
        "own_head_balanced_accuracy": evidence.at("head_balanced_accuracy", last),
        "own_probe_accuracy": evidence.at("linear_probe_accuracy", last),
        "own_probe_balanced_accuracy": evidence.at("linear_probe_balanced_accuracy", last),
        "notes": notes_on(evidence, learned),
    }


def _without_depth(verdict: str, reason: str, evidence: Evidence, about: dict[str, Any]) -> Recommendation:
    """Advice that names no depth. The accuracy of the full network is that of its own head where it was measured."""
    last = about["full_depth"]
    found = [
        evidence.at(f"{source}_accuracy", last, split)
        for source in dict.fromkeys(("head", about["source"]))
        for split in ("test", "val")
    ]
    return Recommendation(
        verdict=verdict,
        stage=None,
        depth=None,
        depth_interval=None,
        expected_accuracy=None,
        expected_accuracy_interval=None,
        full_accuracy=next((value for value in found if value is not None), None),
        ratios=dict.fromkeys(COSTS),
        reason=reason,
        prospects=[],
        balanced_accuracy=None,
        **about,
    )


def _prospects(evidence: Evidence, curve: DepthCurve, outlook: Outlook) -> list[Prospect]:
    found = []
    for position, (stage, depth) in enumerate(zip(curve.stages, curve.depths, strict=True)):
        found.append(
            Prospect(
                stage=stage,
                depth=depth,
                expected_accuracy=float(outlook.expected[position]),
                expected_accuracy_interval=(float(outlook.low[position]), float(outlook.high[position])),
                sufficient=bool(outlook.sufficient[position]),
                costs={kind.name: evidence.at(kind.metric, depth, "none") for kind in COSTS.values()},
                val_accuracy=float(outlook.predicted[position]),
                balanced_accuracy=evidence.at(f"{curve.source}_balanced_accuracy", depth),
            )
        )
    return found


def _verdict(table: pd.DataFrame, curve: DepthCurve, outlook: Outlook, position: int, tolerance: float) -> str:
    is_last = position == len(curve.stages) - 1
    rising = is_last and _still_rising(outlook, tolerance)
    if (
        curve.source == "head"
        and probe_beats_heads(table, tolerance)
        and not (rising and _probe_rises(table, tolerance))
    ):
        return "heads_too_weak"
    if rising:
        return "go_deeper"
    return "use_full_depth" if is_last else "stop_here"


def _probe_rises(table: pd.DataFrame, tolerance: float) -> bool:
    """True where the last stage has by far the best linear probe: then what the heads lack does not hide a plateau."""
    accuracy = depth_curve(table, "val", "linear_probe")["accuracy"].to_numpy()
    return len(accuracy) > 1 and bool(accuracy[-1] > accuracy[:-1].max() + tolerance)


def _still_rising(outlook: Outlook, tolerance: float) -> bool:
    """True where the last stage surely gains more than the tolerance over every depth before it."""
    gain = outlook.drawn[:, [-1]] - outlook.drawn[:, :-1]
    return gain.shape[1] > 0 and bool((gain > tolerance + SLACK).mean(axis=0).min() >= CONFIDENCE)


def _ratio(here: float | None, full: float | None) -> float | None:
    return here / full if here is not None and full else None
