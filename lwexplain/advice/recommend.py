"""The recommendation: at which stage to stop, how sure that is, what it saves, and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.advice.curve import DepthCurve, bootstrap_curve, depth_curve
from lwexplain.advice.depth_model import SLACK, DepthModel, shipped_model
from lwexplain.advice.evidence import Evidence
from lwexplain.advice.objective import amount, check_budgets, check_objective, choose
from lwexplain.advice.outlook import Outlook, outlook_of
from lwexplain.advice.prospects import COSTS, Prospect
from lwexplain.advice.rules import CONFIDENCE, has_signal
from lwexplain.arguments import tolerance_of
from lwexplain.errors import AdviceError

VERDICTS = ("stop_here", "use_full_depth", "go_deeper", "heads_too_weak", "no_signal")


@dataclass(frozen=True)
class Recommendation:
    """Depth advice.

    ``stage`` and ``depth`` (from 1) of the last stage to keep, None where nothing beats guessing (``no_signal``, or
    ``heads_too_weak`` where linear probes do);
    ``depth_interval`` the central 90 % of the depths that draws of the evidence would choose. ``expected_accuracy`` in
    [0, 1] is that of the shorter network once it is trained as the analyzed one was, with its 90 % interval, and
    ``full_accuracy`` that of the analyzed network; both on test (val where there is no test split), which takes no part
    in the choice. Ratios are the shorter network's cost over the full network's, heads included; None where it was not
    measured. ``source`` says what the accuracies of the depths come from: ``head`` or ``linear_probe``. ``prospects``
    holds every depth, among which ``objective`` and ``budgets`` (most parameters, FLOPs, seconds, bytes) chose.
    """

    verdict: str
    stage: str | None
    depth: int | None
    depth_interval: tuple[int, int] | None
    tolerance: float
    expected_accuracy: float | None
    expected_accuracy_interval: tuple[float, float] | None
    full_accuracy: float | None
    params_ratio: float | None
    flops_ratio: float | None
    latency_ratio: float | None
    memory_ratio: float | None
    reason: str
    source: str
    full_depth: int
    objective: str
    budgets: dict[str, float]
    prospects: list[Prospect]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def recommend(
    table: pd.DataFrame,
    tolerance: float = 0.005,
    *,
    objective: str = "params",
    budgets: Mapping[str, float] | None = None,
    retrain: bool = True,
    model: DepthModel | None = None,
    seed: int = 0,
) -> Recommendation:
    """The cheapest depth whose network, trained anew, is not worse than the best depth's by more than ``tolerance``.

    With ``retrain`` False: where the trained network can be cut as it stands. In layer-wise runs that is the same
    question; in others the cut network gets a fresh linear head, which reads less out of early stages than training
    them for it would.

    ``table`` is what ``lw.analyze`` returned, or part of its stages. Layer-wise runs, where every stage has a head, are
    judged by their heads; others by linear probes, receptive fields and a model fitted to networks that were retrained
    at every depth (``advice/depth_model.py``; ``model`` replaces the shipped one). Decisions read val only.

    ``objective``: which cost is to be smallest among the depths that are good enough (``params``, ``flops``,
    ``latency``, ``memory``), or ``accuracy`` for the most accurate depth. ``budgets`` bounds costs: ``{"params": 1e6,
    "latency": 0.002}`` (parameters, FLOPs, seconds, bytes, of one image). Where no depth within the budgets is good
    enough, the most accurate of them is recommended and the reason says so.

    Raises AdviceError where the table lacks the evidence, nothing fits the budgets, or an option is out of range.
    """
    tolerance = tolerance_of(tolerance, AdviceError)
    asked: dict[str, Any] = {
        "tolerance": tolerance,
        "objective": check_objective(objective),
        "budgets": check_budgets({} if budgets is None else budgets),
    }
    curve = bootstrap_curve(table, seed=seed)
    evidence = Evidence.of(table)
    if not has_signal(curve, evidence.chance):
        return _silent(table, evidence, curve, asked)
    coefficients = (model or shipped_model()).of(curve.source if retrain else "head")
    outlook = outlook_of(evidence, curve, coefficients, tolerance, seed=seed)
    prospects = _prospects(evidence, curve, outlook)
    position = choose(prospects, asked["objective"], asked["budgets"])
    verdict = _verdict(table, curve, outlook, position, tolerance)
    chosen, full = prospects[position], prospects[-1]
    low, high = outlook.interval
    ratios: dict[str, Any] = {f"{cost}_ratio": _ratio(chosen.cost(cost), full.cost(cost)) for cost in COSTS}
    return Recommendation(
        verdict=verdict,
        stage=chosen.stage,
        depth=chosen.depth,
        depth_interval=(min(low, chosen.depth), max(high, chosen.depth)),
        expected_accuracy=chosen.expected_accuracy,
        expected_accuracy_interval=chosen.expected_accuracy_interval,
        full_accuracy=outlook.full,
        reason=_reason(verdict, evidence, curve, outlook, position, asked, retrain=retrain),
        source=curve.source,
        full_depth=full.depth,
        prospects=prospects,
        **ratios,
        **asked,
    )


def _prospects(evidence: Evidence, curve: DepthCurve, outlook: Outlook) -> list[Prospect]:
    found = []
    for position, (stage, depth) in enumerate(zip(curve.stages, curve.depths, strict=True)):
        costs = {metric: evidence.curve(metric, "none")[depth - 1] for metric in COSTS.values()}
        found.append(
            Prospect(
                stage=stage,
                depth=depth,
                expected_accuracy=float(outlook.expected[position]),
                expected_accuracy_interval=(float(outlook.low[position]), float(outlook.high[position])),
                sufficient=bool(outlook.sufficient[position]),
                **{metric: float(value) if np.isfinite(value) else None for metric, value in costs.items()},
            )
        )
    return found


def _verdict(table: pd.DataFrame, curve: DepthCurve, outlook: Outlook, position: int, tolerance: float) -> str:
    is_last = position == len(curve.stages) - 1
    rising = is_last and _still_rising(outlook, tolerance)
    if (
        curve.source == "head"
        and _probe_beats_heads(table, tolerance)
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


def _probe_beats_heads(table: pd.DataFrame, tolerance: float) -> bool:
    """True where a linear probe on some stage is surely better on val than every head, by more than the tolerance."""
    probes, heads = depth_curve(table, "val", "linear_probe"), depth_curve(table, "val", "head")
    if probes.empty or heads.empty:
        return False
    return bool(probes["low"].max() > heads["high"].max() + tolerance)


def _still_rising(outlook: Outlook, tolerance: float) -> bool:
    """True where the last stage surely gains more than the tolerance over every depth before it."""
    gain = outlook.drawn[:, [-1]] - outlook.drawn[:, :-1]
    return gain.shape[1] > 0 and bool((gain > tolerance + SLACK).mean(axis=0).min() >= CONFIDENCE)


def _reason(
    verdict: str,
    evidence: Evidence,
    curve: DepthCurve,
    outlook: Outlook,
    position: int,
    asked: dict[str, Any],
    *,
    retrain: bool,
) -> str:
    best, points = outlook.best, f"{100 * asked['tolerance']:g} points"
    sentence = f"{_measured(evidence, curve, outlook, position, retrain=retrain)}, "
    if position == best:
        sentence += "the best of all depths"
    else:
        sentence += (
            f"{100 * (outlook.predicted[best] - outlook.predicted[position]):.2f} points below the best depth "
            f"({curve.stages[best]}, {_percent(outlook.predicted[best])}) and within {points} of it with a probability "
            f"of {100 * outlook.sufficiency[position]:.0f} %"
        )
    if position > 0:
        before = f"one stage less ({curve.stages[position - 1]}, {_percent(outlook.predicted[position - 1])})"
        chance = f"{100 * outlook.sufficiency[position - 1]:.0f} %"
        if outlook.sufficient[position - 1]:
            sentence += f"; {before} would be enough, too"
        else:
            sentence += f"; {before} stays within {points} of the best with a probability of {chance}"
    if not outlook.sufficient[position] and asked["budgets"]:
        within = " and ".join(amount(cost, most) for cost, most in asked["budgets"].items())
        return f"{sentence}: within {within} no depth is surely good enough, and this is the most accurate."
    ending = {
        "stop_here": "the stages after it are not needed",
        "use_full_depth": "no shorter network is surely as good",
        "go_deeper": "accuracy still rises at the last stage, so a deeper network is worth a try",
        "heads_too_weak": (
            "but a linear probe on the features beats every head, so the heads, not the depth, hold the network back"
        ),
    }[verdict]
    return f"{sentence}: {ending}."


def _measured(evidence: Evidence, curve: DepthCurve, outlook: Outlook, position: int, *, retrain: bool) -> str:
    """What the accuracy of a depth is and what it comes from."""
    where = f"{curve.stages[position]} (stage {curve.depths[position]} of {curve.depths[-1]})"
    accuracy = _percent(outlook.predicted[position])
    if curve.source == "head" or not retrain:
        head = "its own head" if curve.source == "head" else "a linear probe for a head"
        return f"With {head}, {where} reaches {accuracy} on {curve.n:,} val samples"
    if position == len(curve.stages) - 1:
        return f"The full depth, {where}, reaches {accuracy} on {curve.n:,} val samples"
    seen = "its receptive field is not known"
    if outlook.field_known:
        field = evidence.curve("receptive_field", "none")[curve.depths[position] - 1]
        seen = f"its receptive field is {field:.0f} pixels in images of {evidence.side}"
    return (
        f"Trained anew, the network up to {where} is expected to reach {accuracy} on val (a linear probe of that stage "
        f"reaches {_percent(curve.accuracy[position])} on {curve.n:,} samples, {seen})"
    )


def _silent(table: pd.DataFrame, evidence: Evidence, curve: DepthCurve, asked: dict[str, Any]) -> Recommendation:
    reason = (
        f"The best depth reaches {_percent(curve.accuracy[curve.best])} on {curve.n:,} val samples, which is not above "
        f"the {_percent(evidence.chance)} of always guessing the most frequent class"
    )
    weak = curve.source == "head" and _probe_beats_heads(table, asked["tolerance"])
    if weak:
        best = np.nanmax(evidence.curve("linear_probe_accuracy"))
        reason += f", but a linear probe on the features reaches {_percent(best)}: the heads hold the network back."
    else:
        reason += ": there is no signal to choose a depth by."
    reported = [evidence.curve(f"{curve.source}_accuracy", split)[curve.depths[-1] - 1] for split in ("test", "val")]
    full = next((float(value) for value in reported if np.isfinite(value)), None)
    return Recommendation(
        verdict="heads_too_weak" if weak else "no_signal",
        stage=None,
        depth=None,
        depth_interval=None,
        expected_accuracy=None,
        expected_accuracy_interval=None,
        full_accuracy=full,
        params_ratio=None,
        flops_ratio=None,
        latency_ratio=None,
        memory_ratio=None,
        reason=reason,
        source=curve.source,
        full_depth=curve.depths[-1],
        prospects=[],
        **asked,
    )


def _ratio(here: float | None, full: float | None) -> float | None:
    return here / full if here is not None and full else None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
