"""Expected accuracy against what it costs: the depths on the Pareto front, those another one beats, and a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from lwexplain.advice.objective import costs_of, measured, pareto_front
from lwexplain.advice.prospects import Prospect
from lwexplain.costs import COSTS
from lwexplain.text_table import TextTable
from lwexplain.views.costs import human
from lwexplain.views.theme import (
    ACCENT,
    MUTED,
    SERIES,
    TEMPLATE,
    empty_figure,
    label,
    translucent,
)

BUDGET, INTERVAL = "#b98a00", translucent(MUTED, 0.45)
KINDS = {  # of a depth: colour, symbol and size, in the order in which they are drawn
    "beaten by another depth": ("#b4bfcb", "circle", 10),
    "on the front": (SERIES[0], "circle", 11),
    "recommended": (ACCENT, "star", 17),
}
DECADE = 10.0  # costs that span more lie on a logarithmic axis


def pareto_figure(
    prospects: Sequence[Prospect],
    recommended_depth: int | None,
    objective: str = "accuracy",
    *,
    budgets: Mapping[str, float] | None = None,
    height: int = 430,
) -> go.Figure:
    """Expected accuracy with its 90 % interval over one cost; a row of buttons changes the cost.

    The cost of ``objective`` comes first (for ``accuracy``: parameters, or stages where those were not measured). The
    line joins the depths that no other one beats on val, numbers are depths, a hollow point is of a depth that is not
    sufficient, and the dashed line is the most that ``budgets`` (by cost) allow.
    """
    if not prospects:
        return empty_figure("No depth promises anything: there is no signal in these measurements.", height=160)
    offered = _costs(prospects)
    first = offered.index(objective) if objective in offered else 0
    low, high = _accuracy_range(prospects)
    panels = [_panel(prospects, cost, recommended_depth, (budgets or {}).get(cost), (low, high)) for cost in offered]
    figure = go.Figure()
    for number, panel in enumerate(panels):
        for trace in panel.traces:
            figure.add_trace(trace.update(visible=number == first))
    for trace in _legend(prospects, recommended_depth):
        figure.add_trace(trace)
    buttons = []
    for number, panel in enumerate(panels):
        shown = [other == number for other, another in enumerate(panels) for _ in another.traces]
        shown += [True] * (len(figure.data) - len(shown))
        buttons.append({"label": panel.name, "method": "update", "args": [{"visible": shown}, {"xaxis": panel.axis}]})
    figure.update_layout(
        template=TEMPLATE, height=height, hovermode="closest", margin={"t": 88}, xaxis=panels[first].axis,
        legend={"itemclick": False, "itemdoubleclick": False},
    )  # fmt: skip
    figure.update_yaxes(title="expected accuracy", tickformat=".2~f", range=[low, high])
    if len(buttons) > 1:
        figure.update_layout(
            updatemenus=[
                {
                    "type": "buttons", "direction": "right", "buttons": buttons, "active": first, "showactive": True,
                    "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 40, "l": 0},
                    "bgcolor": "white", "bordercolor": "#c3cad3", "font": {"size": 13},
                }
            ]
        )  # fmt: skip
    return figure


def pareto_table(prospects: Sequence[Prospect]) -> TextTable:
    """A row for each depth: expected accuracy with its 90 % interval, what is expected on val (which ranks the depths),
    the balanced accuracy there, costs, on the front of which costs (by val) it lies, and whether it is enough.

    Costs that were not measured have no column; without parameters the front is the one over stages.
    """
    known = [cost for cost in COSTS if measured(prospects, cost)]
    fronts = {_name(prospects, cost): pareto_front(prospects, cost) for cost in _costs(prospects)} if prospects else {}
    units = [COSTS[cost].heading for cost in known]
    further = [
        (title, field)
        for title, field in (("on val", "val_accuracy"), ("balanced on val", "balanced_accuracy"))
        if any(getattr(prospect, field) is not None for prospect in prospects)
    ]
    header = [
        "depth",
        "stage",
        "expected accuracy",
        *(title for title, _ in further),
        *units,
        "on the front of",
        "enough",
    ]
    rows = []
    for position, prospect in enumerate(prospects):
        low, high = prospect.expected_accuracy_interval
        on = [name for name, flags in fronts.items() if flags[position]]
        rows.append(
            [
                str(prospect.depth),
                prospect.stage,
                f"{prospect.expected_accuracy:.4f}  [{low:.3f}, {high:.3f}]",
                *(_share(getattr(prospect, field)) for _, field in further),
                *(_number(prospect, cost) for cost in known),
                "all" if len(on) == len(fronts) > 1 else ", ".join(on) or "–",
                "yes" if prospect.sufficient else "no",
            ]
        )
    return TextTable(header, rows)


@dataclass(frozen=True)
class _Panel:
    """What a button shows: the traces over one cost and the axis they lie on."""

    name: str
    axis: dict[str, Any]
    traces: list[go.Scatter]


def _panel(
    prospects: Sequence[Prospect],
    cost: str,
    recommended_depth: int | None,
    budget: float | None,
    accuracies: tuple[float, float],
) -> _Panel:
    title, scale = _axis_title(prospects, cost), COSTS[cost].scale
    x = [value * scale for value in costs_of(prospects, cost)]
    front = pareto_front(prospects, cost)
    axis, right = _axis(title, x if budget is None else [*x, budget * scale])
    leading = sorted((x[at], prospects[at].expected_accuracy) for at in range(len(x)) if front[at])
    steps = [*leading, (right, leading[-1][1])]
    traces = [
        go.Scatter(
            x=[cost for cost, _ in steps], y=[accuracy for _, accuracy in steps], mode="lines",
            line={"color": KINDS["on the front"][0], "width": 1.5, "shape": "hv"}, hoverinfo="skip", showlegend=False,
        )
    ]  # fmt: skip
    if budget is not None:
        traces.append(
            go.Scatter(
                x=[budget * scale] * 2, y=list(accuracies), mode="lines", name="budget", hoverinfo="skip",
                line={"color": BUDGET, "width": 1.5, "dash": "dash"},
            )
        )  # fmt: skip
    kinds = [_kind(prospect, recommended_depth, on) for prospect, on in zip(prospects, front, strict=True)]
    for kind in KINDS:
        members = [(x[at], prospects[at]) for at in range(len(x)) if kinds[at] == kind]
        if members:
            traces.append(_points(members, kind))
    return _Panel(_name(prospects, cost), axis, traces)


def _kind(prospect: Prospect, recommended_depth: int | None, on_front: bool) -> str:
    if prospect.depth == recommended_depth:
        return "recommended"
    return "on the front" if on_front else "beaten by another depth"


def _points(members: Sequence[tuple[float, Prospect]], kind: str) -> go.Scatter:
    """The depths of one kind at their costs."""
    colour, symbol, size = KINDS[kind]
    shown = [prospect for _, prospect in members]
    return go.Scatter(
        x=[cost for cost, _ in members],
        y=[prospect.expected_accuracy for prospect in shown],
        mode="markers+text",
        name=kind,
        showlegend=False,
        text=[_short_name(prospect, kind) for prospect in shown],
        textposition="bottom right" if kind == "recommended" else "top left",
        textfont={"size": 12, "color": MUTED if kind == "beaten by another depth" else colour},
        marker={
            "symbol": [symbol if prospect.sufficient else f"{symbol}-open" for prospect in shown],
            "size": size,
            "color": colour,
            "line": {
                "width": [1 if prospect.sufficient else 2 for prospect in shown],
                "color": ["white" if prospect.sufficient else colour for prospect in shown],
            },
        },
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [p.expected_accuracy_interval[1] - p.expected_accuracy for p in shown],
            "arrayminus": [p.expected_accuracy - p.expected_accuracy_interval[0] for p in shown],
            "thickness": 1,
            "width": 3,
            "color": INTERVAL,
        },
        customdata=[_hover(prospect) for prospect in shown],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _short_name(prospect: Prospect, kind: str) -> str:
    return f"<b>{prospect.depth}: {label(prospect.stage, 20)}</b>" if kind == "recommended" else str(prospect.depth)


def _legend(prospects: Sequence[Prospect], recommended_depth: int | None) -> list[go.Scatter]:
    """Entries of the legend, the same over every cost."""
    entries = [
        (kind, {"symbol": symbol, "size": min(size, 14), "color": colour})
        for kind, (colour, symbol, size) in reversed(KINDS.items())
        if kind != "recommended" or any(prospect.depth == recommended_depth for prospect in prospects)
    ]
    if not all(prospect.sufficient for prospect in prospects):
        hollow = {"symbol": "circle-open", "size": 10, "color": MUTED, "line": {"width": 2}}
        entries.append(("hollow: not enough, outside the tolerance on val", hollow))
    return [go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker) for name, marker in entries]


def _hover(prospect: Prospect) -> str:
    low, high = prospect.expected_accuracy_interval
    lines = [
        f"<b>{label(prospect.stage)}</b> (depth {prospect.depth})",
        f"expected accuracy {prospect.expected_accuracy:.4f}",
        f"90 % interval {low:.4f} to {high:.4f}",
        "enough" if prospect.sufficient else "not enough: more than the tolerance below the best",
    ]
    for cost in COSTS:
        if measured([prospect], cost):
            lines.append(f"{COSTS[cost].heading}: {_number(prospect, cost)}")
    return "<br>".join(lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(prospect: Prospect, cost: str) -> str:
    return human((prospect.cost(cost) or 0.0) * COSTS[cost].scale)


def _axis(title: str, x: Sequence[float]) -> tuple[dict[str, Any], float]:
    """The axis of a cost and its right end; logarithmic where positive costs span more than a decade."""
    low, high = min(x), max(x)
    axis: dict[str, Any] = {"title": {"text": title}}
    if low > 0 and high > DECADE * low:
        a, b = math.log10(low), math.log10(high)
        left, right = a - 0.06 * (b - a), b + 0.05 * (b - a)
        ticks = [digit * 10.0**power for power in range(math.floor(left), math.ceil(right)) for digit in (1, 2, 5)]
        if b - a > 3:
            ticks = ticks[::3]
        named = {"tickvals": ticks, "ticktext": [human(tick) for tick in ticks]}
        return axis | named | {"type": "log", "range": [left, right]}, 10.0**right
    span = (high - low) or abs(high) or 1.0
    left, right = low - 0.06 * span, high + 0.05 * span
    return axis | {"type": "linear", "range": [left, right]}, right


def _accuracy_range(prospects: Sequence[Prospect]) -> tuple[float, float]:
    low = min(prospect.expected_accuracy_interval[0] for prospect in prospects)
    high = max(prospect.expected_accuracy_interval[1] for prospect in prospects)
    room = 0.06 * ((high - low) or 0.1)
    return low - room, high + 2 * room


def _costs(prospects: Sequence[Prospect]) -> list[str]:
    """The costs there is a chart of: those that were measured, and stages in the place of parameters."""
    return [cost for cost in COSTS if cost == "params" or measured(prospects, cost)]


def _axis_title(prospects: Sequence[Prospect], cost: str) -> str:
    """The cost with its unit, or what stands in its place."""
    return COSTS[cost].heading if measured(prospects, cost) else "stages"


def _name(prospects: Sequence[Prospect], cost: str) -> str:
    """The cost without its unit, or what stands in its place."""
    return COSTS[cost].title if measured(prospects, cost) else "stages"
