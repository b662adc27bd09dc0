"""What a monitor saw, drawn: accuracy over depth look by look, each stage over the epochs, and where it still moves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from lwexplain.views.heatmap import dress, heatmap
from lwexplain.views.metrics import title_of
from lwexplain.views.theme import MUTED, SEQUENTIAL, SERIES, TEMPLATE, empty_figure, label

TITLES = {"drift": "drift since the last look (1 − CKA)"}
"""Titles of what looks measure and analyses do not."""

ACCURACIES = ("linear_probe_accuracy", "ncm_accuracy")
EARLIER_LOOKS = 6
"""Earlier looks that are drawn beside the latest, evenly spaced."""

MOST_TICKS = 12
DARKEST = str(SEQUENTIAL[-1][1])
PALEST = 0.3
"""Where on the scale of colours the shallowest stage, and the earliest look, begins."""


def look_title(metric: str) -> str:
    """What a person calls a metric of the looks."""
    return TITLES.get(metric) or title_of(metric)


def looks_depth_figure(table: pd.DataFrame, *, chance: float | None = None, height: int = 420) -> go.Figure:
    """Accuracy over depth from ``looks_table``: the latest look in full colour with its 95 % intervals, earlier looks
    of the linear probe pale, the earliest the palest; ``chance`` is where guessing would be."""
    linear = table[table["metric"] == ACCURACIES[0]]
    if linear.empty:
        return empty_figure("No look has been taken yet.", height)
    figure = go.Figure()
    epochs = sorted(int(epoch) for epoch in linear["epoch"].unique())
    earlier = epochs[:-1]
    if len(earlier) > EARLIER_LOOKS:
        earlier = [earlier[round(place)] for place in np.linspace(0, len(earlier) - 1, EARLIER_LOOKS)]
    for place, (epoch, colour) in enumerate(zip(earlier, _shades(len(earlier) + 1), strict=False), start=1):
        rows = linear[linear["epoch"] == epoch]
        figure.add_scatter(
            x=rows["depth"],
            y=rows["value"],
            mode="lines",
            line={"color": colour, "width": 1.5},
            name="earlier looks, pale = early",
            legendgroup="earlier",
            showlegend=place == len(earlier),
            text=[_said(row) for row in rows.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
        )
    styles = ((DARKEST, "circle"), (SERIES[1], "diamond"))
    for metric, (colour, symbol) in zip(ACCURACIES, styles, strict=True):
        rows = table[(table["metric"] == metric) & (table["epoch"] == epochs[-1])]
        figure.add_scatter(
            x=rows["depth"],
            y=rows["value"],
            error_y={
                "type": "data",
                "array": rows["high"] - rows["value"],
                "arrayminus": rows["value"] - rows["low"],
                "thickness": 1.2,
                "width": 3,
            },
            mode="lines+markers",
            line={"color": colour, "width": 2.5, "dash": "solid" if metric == ACCURACIES[0] else "dot"},
            marker={"size": 8, "symbol": symbol},
            name=f"{label(look_title(metric))}, epoch {epochs[-1]}",
            text=[_said(row) for row in rows.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
        )
    if chance is not None:
        figure.add_hline(y=chance, line={"color": MUTED, "width": 1, "dash": "dot"}, layer="below")
    names = linear.drop_duplicates("depth").sort_values("depth")
    few = len(names) <= MOST_TICKS
    figure.update_xaxes(
        title="stage" if few else "depth (stages)",
        tickvals=list(names["depth"]) if few else None,
        ticktext=[label(name, 14) for name in names["stage"]] if few else None,
        range=[names["depth"].min() - 0.4, names["depth"].max() + 0.4],
    )
    figure.update_yaxes(title="accuracy on held-out images", tickformat=".2~f")
    figure.update_layout(template=TEMPLATE, height=height, margin={"t": 72})
    return figure


def looks_epochs_figure(table: pd.DataFrame, metric: str, *, height: int = 380) -> go.Figure:
    """A line for each stage over the epochs, shallow stages pale; hovering shows the 95 % interval."""
    rows = table[table["metric"] == metric]
    if rows.empty:
        return empty_figure(f"No {label(look_title(metric))} has been measured yet.", height)
    figure = go.Figure()
    stages = rows.drop_duplicates("depth").sort_values("depth")
    for (depth, stage), colour in zip(
        stages[["depth", "stage"]].itertuples(index=False), _shades(len(stages)), strict=True
    ):
        own = rows[rows["depth"] == depth]
        figure.add_scatter(
            x=own["epoch"],
            y=own["value"],
            mode="lines+markers" if len(own) < 40 else "lines",
            marker={"size": 5},
            line={"color": colour, "width": 2},
            name=label(stage, 20),
            text=[_said(row) for row in own.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
            showlegend=len(stages) <= MOST_TICKS,
        )
    figure.update_xaxes(title="epoch", tickformat="d")
    figure.update_yaxes(title=label(look_title(metric), 60))
    figure.update_layout(template=TEMPLATE, height=height, margin={"t": 72})
    return figure


def drift_figure(table: pd.DataFrame) -> go.Figure:
    """How much each stage (row) changed since the look before each epoch (column): 1 - linear CKA, 0 for not at all."""
    rows = table[(table["metric"] == "drift") & table["value"].notna()]
    if rows.empty:
        return empty_figure("Drift is shown from the second look on: it is counted from the one before.")
    stages = rows.drop_duplicates("depth").sort_values("depth")
    values = rows.pivot(index="depth", columns="epoch", values="value").reindex(index=list(stages["depth"]))
    said = {(row["depth"], row["epoch"]): _said(row) for row in rows.to_dict("records")}
    hover = np.array([[said.get((d, e), "not measured") for e in values.columns] for d in values.index], dtype=object)
    epochs, names = [str(epoch) for epoch in values.columns], [label(stage, 20) for stage in stages["stage"]]
    numbers = values.to_numpy(dtype=float)
    cells = heatmap(numbers, epochs, names, low=0.0, high=max(0.05, float(np.nanmax(numbers))), hover=hover)
    figure = go.Figure(cells.update(showscale=cells.texttemplate is None))
    dress(figure, epochs, names, x_title="epoch")
    return figure


def _shades(count: int) -> list[str]:
    """``count`` colours from pale to dark."""
    return list(sample_colorscale(SEQUENTIAL, list(np.linspace(PALEST, 1.0, count)) if count > 1 else [1.0]))


def _said(row: Mapping[Any, Any]) -> str:
    """What hovering over a value says."""
    parts = [
        f"{label(row['stage'])}, epoch {row['epoch']}",
        f"{label(look_title(str(row['metric'])))}: {row['value']:.4g}",
    ]
    if not (pd.isna(row["low"]) or pd.isna(row["high"])):
        parts.append(f"95 % interval {row['low']:.4g} to {row['high']:.4g}")
    if not pd.isna(row["n"]):
        parts.append(f"n = {row['n']:.0f} images")
    return "<br>".join(parts)
