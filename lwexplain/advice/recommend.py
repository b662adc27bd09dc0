"""The recommendation: at which stage to stop, how sure that is, what it saves, and why."""

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from lwexplain.advice.curve import DepthCurve, bootstrap_curve, depth_curve
from lwexplain.advice.rules import Choice, has_signal, non_inferior_depth, still_rising
from lwexplain.errors import AdviceError

VERDICTS = ("stop_here", "use_full_depth", "go_deeper", "heads_too_weak", "no_signal")
COSTS = {"params_ratio": "parameters", "flops_ratio": "flops", "latency_ratio": "latency_seconds"}


@dataclass(frozen=True)
class Recommendation:
    """Depth advice.

    ``stage`` and ``depth`` (from 1) of the last stage to keep, None where the verdict is ``no_signal``;
    ``depth_interval`` the central 90 % of bootstrap choices. Accuracies lie in [0, 1] and are those of test (of val
    where there is no test split), with 95 % intervals; test takes no part in the choice. Ratios are the shorter
    network's cost over the full network's, heads included; None where it was not measured. ``source`` says whose
    accuracy was compared: ``head`` or ``linear_probe``.
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
    reason: str
    source: str
    full_depth: int

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def recommend(table: pd.DataFrame, tolerance: float = 0.005, *, seed: int = 0) -> Recommendation:
    """The smallest depth whose val accuracy is not worse than the best depth's by more than ``tolerance``.

    ``table`` is what ``lw.analyze`` returned, or part of its stages. Layer-wise runs are judged by their heads, others
    by the linear probe, whose C was chosen on the same val samples at every depth alike.
    Raises AdviceError where the table lacks the evidence or the tolerance is not in [0, 1).
    """
    if not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise AdviceError(
            f"tolerance is a difference of accuracies in [0, 1), found {tolerance!r}; 0.005 is half a point"
        )
    curve = bootstrap_curve(table, seed=seed)
    chance = float(table.attrs.get("chance") or 1 / len(table.attrs["classes"]))
    full_accuracy, _ = _reported(table, curve, len(curve.stages) - 1)
    if not has_signal(curve, chance):
        return _silent(curve, tolerance, chance, full_accuracy)
    choice = non_inferior_depth(curve, tolerance)
    verdict = _verdict(table, curve, choice, tolerance)
    expected, interval = _reported(table, curve, choice.position)
    ratios = {name: _cost_ratio(table, curve, choice.position, metric) for name, metric in COSTS.items()}
    return Recommendation(
        verdict=verdict,
        stage=curve.stages[choice.position],
        depth=curve.depths[choice.position],
        depth_interval=choice.interval,
        tolerance=tolerance,
        expected_accuracy=expected,
        expected_accuracy_interval=interval,
        full_accuracy=full_accuracy,
        reason=_reason(verdict, curve, choice, tolerance),
        source=curve.source,
        full_depth=curve.depths[-1],
        **ratios,
    )


def _verdict(table: pd.DataFrame, curve: DepthCurve, choice: Choice, tolerance: float) -> str:
    if curve.source == "head" and _probe_beats_heads(table, tolerance):
        return "heads_too_weak"
    if choice.position < len(curve.stages) - 1:
        return "stop_here"
    return "go_deeper" if still_rising(curve, tolerance) else "use_full_depth"


def _probe_beats_heads(table: pd.DataFrame, tolerance: float) -> bool:
    """True where a linear probe on some stage is surely better on val than every head, by more than the tolerance."""
    probes, heads = depth_curve(table, "val", "linear_probe"), depth_curve(table, "val", "head")
    if probes.empty or heads.empty:
        return False
    return bool(probes["low"].max() > heads["high"].max() + tolerance)


def _reason(verdict: str, curve: DepthCurve, choice: Choice, tolerance: float) -> str:
    position, best = choice.position, curve.best
    what = {"head": "its own head", "linear_probe": "a linear probe"}[curve.source]
    sentence = (
        f"With {what}, {curve.stages[position]} (stage {curve.depths[position]} of {curve.depths[-1]}) reaches "
        f"{_percent(curve.accuracy[position])} on {curve.n:,} val samples, "
    )
    if position == best:
        sentence += "the best of all depths"
    else:
        sentence += (
            f"{100 * choice.gap:.2f} points below the best depth ({curve.stages[best]}, "
            f"{_percent(curve.accuracy[best])}) and within {100 * tolerance:g} points of it in "
            f"{choice.support[position]:.0%} of the paired bootstrap resamples"
        )
    if position > 0:
        sentence += (
            f"; one stage less ({curve.stages[position - 1]}, {_percent(curve.accuracy[position - 1])}) stays within "
            f"{100 * tolerance:g} points of the best in only {choice.support[position - 1]:.0%}"
        )
    ending = {
        "stop_here": "the stages after it are not needed",
        "use_full_depth": "no shorter network is surely as good",
        "go_deeper": "accuracy still rises at the last stage, so a deeper network is worth a try",
        "heads_too_weak": (
            "but a linear probe on the features beats every head, so the heads, not the depth, hold the network back"
        ),
    }[verdict]
    return f"{sentence}: {ending}."


def _silent(curve: DepthCurve, tolerance: float, chance: float, full_accuracy: float | None) -> Recommendation:
    reason = (
        f"The best depth reaches {_percent(curve.accuracy[curve.best])} on {curve.n:,} val samples, which is not above "
        f"the {_percent(chance)} of always guessing the most frequent class: there is no signal to choose a depth by."
    )
    return Recommendation(
        verdict="no_signal",
        stage=None,
        depth=None,
        depth_interval=None,
        tolerance=tolerance,
        expected_accuracy=None,
        expected_accuracy_interval=None,
        full_accuracy=full_accuracy,
        params_ratio=None,
        flops_ratio=None,
        latency_ratio=None,
        reason=reason,
        source=curve.source,
        full_depth=curve.depths[-1],
    )


def _reported(table: pd.DataFrame, curve: DepthCurve, position: int) -> tuple[float | None, tuple[float, float] | None]:
    """Accuracy and interval of a depth for the report: on test, or on val where there is no test split."""
    for split in ("test", "val"):
        rows = depth_curve(table, split, curve.source)
        row = rows[rows["depth"] == curve.depths[position]]
        if not row.empty:
            value = row.iloc[0]
            return float(value["accuracy"]), (float(value["low"]), float(value["high"]))
    return None, None


def _cost_ratio(table: pd.DataFrame, curve: DepthCurve, position: int, metric: str) -> float | None:
    rows = table[(table["metric"] == metric) & (table["split"] == "none") & table["class"].isna()]
    costs = dict(zip(rows["depth"], rows["value"], strict=True))
    here, full = costs.get(curve.depths[position]), costs.get(curve.depths[-1])
    return float(here / full) if here is not None and full is not None and full > 0 else None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
