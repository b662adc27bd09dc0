"""What each depth costs, one chart a kind of cost: the network cut there, with its head."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwexplain.costs import COSTS
from lwexplain.table import per_depth
from lwexplain.views.theme import ACCENT, MUTED, TEMPLATE, empty_figure, label

BAR = "#9db8d2"


def cost_figure(table: pd.DataFrame, *, depth: int | None = None, height: int = 320) -> go.Figure:
    """Bars over depth, one chart a cost; the bar of ``depth`` (the recommended one) is dark."""
    charts = [(kind, per_depth(table, kind.metric, "none")) for kind in COSTS.values()]
    found = [(kind, rows) for kind, rows in charts if not rows.empty]
    if not found:
        return empty_figure("Costs were not measured in this analysis.")
    figure = make_subplots(
        rows=1, cols=len(found), subplot_titles=[f"<b>{kind.heading}</b>" for kind, _ in found], horizontal_spacing=0.07
    )
    for column, (kind, rows) in enumerate(found, start=1):
        form = "s" if kind.format == "count" else "g"
        full = float(rows["value"].iloc[-1]) or 1.0
        figure.add_bar(
            x=rows["depth"],
            y=rows["value"] * kind.scale,
            marker={"color": [ACCENT if d == depth else BAR for d in rows["depth"]]},
            text=[label(stage) for stage in rows["stage"]],
            textposition="none",
            error_y=_percentiles(rows, kind.scale),
            customdata=100 * rows["value"] / full,
            hovertemplate=f"depth %{{x}}: %{{text}}<br>{kind.heading}: %{{y:.4{form}}}"
            "<br>%{customdata:.0f} % of full depth<extra></extra>",
            name=kind.heading,
            row=1,
            col=column,
        )
        depths = [int(d) for d in rows["depth"]]
        figure.update_xaxes(title="depth (stages)", tickvals=depths[:: max(1, len(depths) // 9)], row=1, col=column)
        figure.update_yaxes(tickformat=f"~{form}", rangemode="tozero", row=1, col=column)
    figure.update_layout(template=TEMPLATE, height=height, showlegend=False, bargap=0.25, margin={"t": 40})
    return figure


def _percentiles(rows: pd.DataFrame, scale: float) -> dict[str, Any] | None:
    """The spread of a measured cost (latency), where the table gives it."""
    if rows[["low", "high"]].isna().any(axis=None):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows["high"] - rows["value"]) * scale,
        "arrayminus": (rows["value"] - rows["low"]) * scale,
        "thickness": 1,
        "width": 3,
        "color": MUTED,
    }


def human(value: float) -> str:
    """``1234567`` as ``1.23 M``."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"
