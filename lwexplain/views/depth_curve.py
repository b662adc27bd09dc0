"""Accuracy over depth: the curve a recommendation is read from, and several runs on one chart."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd
import plotly.graph_objects as go

from lwexplain.metrics import balanced_metric, is_accuracy, is_balanced
from lwexplain.probes.metrics import accuracy
from lwexplain.table import per_depth, without_info
from lwexplain.views.metrics import Metrics
from lwexplain.views.theme import (
    ACCENT,
    SERIES,
    TEMPLATE,
    TOLERANCE,
    empty_figure,
    label,
    translucent,
)


class Advised(Protocol):
    """What a depth curve shows of a recommendation; ``depth`` is None where there is no signal."""

    @property
    def depth(self) -> int | None: ...
    @property
    def source(self) -> str: ...


def accuracy_metrics(table: pd.DataFrame) -> list[str]:
    """Accuracy metrics present, the usual ones first, then those of custom probes by name."""
    present = {str(metric) for metric in table["metric"].unique() if is_accuracy(str(metric))}
    order = [name for metric in accuracy.METRICS for name in (metric.name, balanced_metric(metric.name))]
    return [m for m in order if m in present] + sorted(present - set(order))


def charted_accuracies(table: pd.DataFrame) -> list[str]:
    """Those a chart shows where nobody chooses: balanced ones only of uneven classes, of others they are the same."""
    bare = without_info(table)
    noted = bare["note"].fillna("").str.contains("uneven classes")
    uneven = set(bare.loc[noted, "metric"])
    return [metric for metric in accuracy_metrics(table) if not is_balanced(metric) or metric in uneven]


def depth_figure(
    table: pd.DataFrame,
    *,
    recommendation: Advised | None = None,
    tolerance: float | None = None,
    split: str = "val",
    metrics: Sequence[str] | None = None,
    height: int = 430,
) -> go.Figure:
    """Accuracy per depth with 95 % bands; the recommended depth and the tolerance band below the best are marked.

    ``table`` is the long table of measurements, ``metrics`` the accuracies to draw (None = all, balanced ones only
    where classes are uneven; the one that decides, drawn alone, lets half a point be seen). The band needs both
    ``recommendation`` (its ``source`` names the curve it was decided on) and ``tolerance`` (accuracy, 0.005 = half a
    point).
    """
    figure, known = go.Figure(), Metrics.of(table)
    drawn = 0
    for metric in charted_accuracies(table) if metrics is None else accuracy_metrics(table):
        rows = per_depth(table, metric, split)
        if rows.empty or (metrics is not None and metric not in metrics):
            continue
        _add_curve(figure, rows, known.label(metric), SERIES[drawn % len(SERIES)], dash=_dash(metric))
        drawn += 1
    if not drawn:
        return empty_figure(f"No accuracy was measured on the {split} split.", height)
    if recommendation is not None:
        _mark(figure, table, recommendation, tolerance, split)
    _dress(figure, table, split, height)
    return figure


def comparison_figure(
    tables: Mapping[str, pd.DataFrame],
    *,
    metric: str | None = None,
    recommendations: Mapping[str, Advised] | None = None,
    split: str = "val",
    height: int = 460,
) -> go.Figure:
    """A curve for each run on one chart. Without ``metric`` each run shows the curve its advice is decided on.

    ``tables`` maps run names to long tables; ``recommendations`` maps them to what is marked by a star.
    """
    figure = go.Figure()
    advised = recommendations or {}
    for index, (name, table) in enumerate(tables.items()):
        wanted = metric or _decided_on(table, advised.get(name))
        rows = per_depth(table, wanted, split) if wanted else table.iloc[:0]
        if rows.empty:
            continue
        colour = SERIES[index % len(SERIES)]
        title = label(name) if metric else f"{label(name)} ({Metrics.of(table).label(str(wanted))})"
        _add_curve(figure, rows, title, colour, dash="solid")
        point = rows[rows["depth"] == advised[name].depth] if name in advised else rows.iloc[:0]
        if not point.empty:  # stars at one place stay visible: the later, the smaller
            figure.add_scatter(
                x=point["depth"],
                y=point["value"],
                mode="markers",
                marker={
                    "symbol": "star",
                    "size": 15 + 5 * (len(tables) - 1 - index),
                    "color": colour,
                    "line": {"width": 1.5, "color": "white"},
                },
                hovertemplate=f"{label(name)}: recommended depth %{{x}}<extra></extra>",
                legendgroup=title,
                showlegend=False,
            )
    if not figure.data:
        return empty_figure("The chosen runs have no such accuracy in common.", height)
    _dress(figure, pd.concat(list(tables.values())), split, height, stage_names=len(tables) == 1)
    return figure


def _decided_on(table: pd.DataFrame, recommendation: Advised | None) -> str | None:
    if recommendation is not None:
        return f"{recommendation.source}_accuracy"
    return next(iter(accuracy_metrics(table)), None)


def _dash(metric: str) -> str:
    return {"head_accuracy": "solid", "linear_probe_accuracy": "dash", "knn_accuracy": "dot"}.get(metric, "dashdot")


def _add_curve(figure: go.Figure, rows: pd.DataFrame, title: str, colour: str, dash: str) -> None:
    banded = rows.dropna(subset=["low", "high"])
    if not banded.empty:
        figure.add_scatter(
            x=[*banded["depth"], *banded["depth"][::-1]],
            y=[*banded["high"], *banded["low"][::-1]],
            fill="toself",
            fillcolor=translucent(colour, 0.15),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            legendgroup=title,
            showlegend=False,
            name=f"{title}, 95 % interval",
        )
    figure.add_scatter(
        x=rows["depth"],
        y=rows["value"],
        mode="lines+markers",
        name=title,
        legendgroup=title,
        line={"color": colour, "width": 2.5, "dash": dash},
        marker={"size": 8, "color": colour},
        text=[_hover(row) for row in rows.to_dict("records")],
        hovertemplate=f"<b>{title}</b><br>%{{text}}<extra></extra>",
    )


def _hover(row: Mapping[Any, Any]) -> str:
    value, low, high, n = row["value"], row["low"], row["high"], row["n"]
    parts = [f"depth {row['depth']}: {label(row['stage'])}", f"accuracy {value:.4f}"]
    if not (pd.isna(low) or pd.isna(high)):
        parts.append(f"95 % interval {low:.4f} to {high:.4f}")
    if not pd.isna(n):
        parts.append(f"n = {n} samples")
    if row.get("note"):
        parts.append(label(row["note"], 80))
    return "<br>".join(parts)


def _mark(figure: go.Figure, table: pd.DataFrame, advised: Advised, tolerance: float | None, split: str) -> None:
    rows = per_depth(table, f"{advised.source}_accuracy", split)
    if tolerance is not None and not rows.empty:
        best = float(rows["value"].max())
        figure.add_hrect(y0=best - tolerance, y1=best, fillcolor=TOLERANCE, line_width=0, layer="below")
        figure.add_hline(y=best - tolerance, line={"color": "#b98a00", "width": 1, "dash": "dot"}, layer="below")
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            marker={"symbol": "square", "size": 13, "color": "rgba(240, 180, 40, 0.5)"},
            name=f"within {100 * tolerance:g} points of the best",
        )
    if advised.depth is None:
        return
    figure.add_vline(x=advised.depth, line={"color": ACCENT, "width": 1.5, "dash": "dash"}, layer="below")
    point = rows[rows["depth"] == advised.depth]
    if not point.empty:
        figure.add_scatter(
            x=point["depth"],
            y=point["value"],
            mode="markers",
            name="recommended depth",
            marker={"symbol": "star", "size": 18, "color": ACCENT, "line": {"width": 1.5, "color": "white"}},
            hoverinfo="skip",
        )


def _dress(figure: go.Figure, table: pd.DataFrame, split: str, height: int, stage_names: bool = True) -> None:
    accuracies = table[table["metric"].map(is_accuracy) & (table["split"] == split)]
    stages = accuracies.drop_duplicates("depth").sort_values("depth")
    depths = [int(depth) for depth in stages["depth"]]
    ticks = [f"{d}<br>{label(s, 14)}" for d, s in zip(depths, stages["stage"], strict=True)]
    if not stage_names or len(depths) > 14:
        ticks = [str(depth) for depth in depths]
    figure.update_xaxes(
        title="depth (stages)",
        tickvals=depths,
        ticktext=ticks,
        tickangle=0 if len(depths) <= 14 else None,
        range=[min(depths) - 0.4, max(depths) + 0.4] if depths else None,
    )
    figure.update_yaxes(title=f"accuracy ({split})", tickformat=".2~f")
    figure.update_layout(template=TEMPLATE, height=height, hovermode="closest", margin={"t": 56})
