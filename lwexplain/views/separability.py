"""Separability and all other measures over depth: one small chart a metric, custom probes' metrics included."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwexplain.table import overall, per_depth, without_info
from lwexplain.views.metrics import Metrics
from lwexplain.views.theme import (
    ACCENT,
    MUTED,
    SERIES,
    TEMPLATE,
    empty_figure,
    label,
)
from lwexplain.views.vertical_lines import add_vertical_lines

LOG_FROM = 30  # times the least value, from which on a chart of positive values has a logarithmic axis
OVERHANG = 0.4  # of the range of the values, for intervals beyond it


def panel_metrics(table: pd.DataFrame, split: str = "val") -> list[str]:
    """Metrics over depth of ``split`` or of none, in the order in which they were measured.

    Without those that have a figure of their own: accuracies, costs, similarities of stages, the depths of samples and
    the qualities of attributions.
    """
    known, rows = Metrics.of(table), overall(table)
    rows = rows[rows["split"].isin([split, "none"]) & rows["value"].notna()]
    return [name for name in map(str, rows["metric"].unique()) if not known.has_own_figure(name)]


def panel_families(table: pd.DataFrame, split: str = "val") -> dict[str, list[str]]:
    """The metrics of ``panel_metrics`` by the heading of their family, in the order in which they are declared."""
    known = Metrics.of(table)
    return known.by_family(known.in_order(panel_metrics(table, split)))


def separability_figure(
    table: pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    split: str = "val",
    depth: int | None = None,
    columns: int = 4,
    row_height: int = 190,
) -> go.Figure:
    """Small multiples over depth of ``metrics`` (None = ``panel_metrics``); ``depth``, the recommended one, is marked.

    A metric that was measured on train as well has a pale dotted line for it.
    """
    metrics = panel_metrics(table, split) if metrics is None else list(metrics)
    if not metrics:
        return empty_figure(f"No separability metric was measured on the {split} split.")
    known, table = Metrics.of(table), without_info(table)
    lines = {metric: _lines(table, metric, split) for metric in metrics}
    scales = {metric: _Scale.of(found) for metric, found in lines.items()}
    count = math.ceil(len(metrics) / columns)
    height = row_height * count + 40
    figure = make_subplots(
        rows=count,
        cols=columns,
        subplot_titles=[_title(known, metric, scale.log) for metric, scale in scales.items()],
        horizontal_spacing=0.06,
        vertical_spacing=min(0.5 / count, 84 / height),
    )
    depths = sorted(int(d) for d in table.loc[table["metric"].isin(metrics), "depth"].unique())
    for index, metric in enumerate(metrics):
        row, column = divmod(index, columns)
        scale = scales[metric]
        for pale, part in enumerate(lines[metric]):
            _add_line(figure, part, known.label(metric), scale, row + 1, column + 1, pale=bool(pale))
        figure.update_yaxes(type="log" if scale.log else "linear", range=scale.axis_range, row=row + 1, col=column + 1)
    if depth is not None:
        panels = [divmod(index, columns) for index in range(len(metrics))]
        places = [(depth, row + 1, column + 1) for row, column in panels]
        add_vertical_lines(figure, places, {"color": ACCENT, "width": 1, "dash": "dash"})
    lowest = {index % columns: index // columns + 1 for index in range(len(metrics))}
    for column, row in lowest.items():
        figure.update_xaxes(title="depth (stages)", row=row, col=column + 1)
    step = max(1, len(depths) // 6)
    figure.update_xaxes(tickvals=depths[::step], range=[depths[0] - 0.4, depths[-1] + 0.4])
    figure.update_yaxes(nticks=5)
    figure.update_annotations(font={"size": 13}, xanchor="center", yanchor="bottom")
    figure.update_layout(
        template=TEMPLATE, height=height, showlegend=False, margin={"t": 46, "l": 40, "r": 12, "b": 44}
    )
    return figure


def _title(known: Metrics, metric: str, log: bool) -> str:
    better = known.direction(metric) + (", log scale" if log else "")
    return f"<b>{known.label(metric)}</b><br><span style='font-size:11px;color:{MUTED}'>{better}</span>"


def _lines(table: pd.DataFrame, metric: str, split: str) -> list[pd.DataFrame]:
    """What is drawn of a metric: its rows on ``split`` (of none, where it belongs to none), then those on train."""
    parts = [per_depth(table, metric, name) for name in (split, "none")]
    found = [part for part in parts if not part.empty][:1]
    train = per_depth(table, metric, "train") if split != "train" else table.iloc[:0]
    return found if train.empty else [*found, train]


@dataclass(frozen=True)
class _Scale:
    """The vertical axis of one chart: from ``low`` to ``high``, logarithmic where values span powers of ten.

    The values decide, not their intervals: one wide interval would flatten the curve. Intervals are cut at the edges.
    """

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, lines: Sequence[pd.DataFrame]) -> "_Scale":
        rows = pd.concat(list(lines))
        values = rows["value"][np.isfinite(rows["value"])]
        if values.empty:
            return cls(0.0, 1.0, False)
        low, high = float(values.min()), float(values.max())
        if low > 0 and high > LOG_FROM * low:
            return cls(low / 1.5, high * 1.5, True)
        span = high - low
        room = OVERHANG * span if span > 0 else np.inf
        low = max(float(rows["low"].fillna(low).min()), low - room)
        high = min(float(rows["high"].fillna(high).max()), high + room)
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - margin, high + margin, False)

    @property
    def axis_range(self) -> list[float]:
        edges = (self.low, self.high)
        return [math.log10(edge) for edge in edges] if self.log else list(edges)


def _add_line(
    figure: go.Figure, rows: pd.DataFrame, title: str, scale: _Scale, row: int, column: int, *, pale: bool
) -> None:
    colour = MUTED if pale else SERIES[0]
    bars = rows[["low", "high"]].notna().all(axis=1)
    metric = str(rows["metric"].iloc[0])
    title += " (train)" if pale else ""
    figure.add_scatter(
        x=rows["depth"],
        y=rows["value"],
        mode="lines" if pale else "lines+markers",
        line={"color": colour, "width": 1.5, "dash": "dot"} if pale else {"color": colour, "width": 2},
        marker={"size": 6},
        name=f"{label(metric)}, train" if pale else label(metric),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (rows["high"].clip(upper=scale.high) - rows["value"]).where(bars, 0.0),
            "arrayminus": (rows["value"] - rows["low"].clip(lower=scale.low)).where(bars, 0.0),
            "thickness": 1,
            "width": 2,
        }
        if bars.any() and not pale
        else None,
        text=[label(stage) for stage in rows["stage"]],
        customdata=[_remarks(item) for item in rows.to_dict("records")],
        hovertemplate=f"<b>{title}</b><br>depth %{{x}}: %{{text}}<br>%{{y:.4g}}<br>%{{customdata}}<extra></extra>",
        row=row,
        col=column,
    )


def _remarks(row: Mapping[Any, Any]) -> str:
    interval = f"95 % interval {row['low']:.4g} to {row['high']:.4g}"
    parts = [] if pd.isna(row["low"]) or pd.isna(row["high"]) else [interval]
    return "<br>".join([*parts, *([label(row["note"], 80)] if row["note"] else [])])
