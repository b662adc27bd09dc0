"""How well the classes separate over depth: one small chart a metric, custom probes' metrics included."""

import math

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwexplain.views.depth_curve import per_depth
from lwexplain.views.theme import MUTED, SERIES, TEMPLATE, empty_figure, is_accuracy, is_cost, label, metric_title

BETTER = {"higher": "higher is better ↑", "lower": "lower is better ↓", None: "no better direction stated"}


def panel_metrics(table: pd.DataFrame, split: str = "val") -> list[str]:
    """Metrics over depth that are neither accuracies nor costs, in the order in which they were measured."""
    rows = table[(table["split"] == split) & table["class"].isna() & table["value"].notna()]
    names = [str(name) for name in rows["metric"].unique()]
    return [name for name in names if not is_accuracy(name) and not is_cost(name)]


def separability_figure(
    table: pd.DataFrame, *, split: str = "val", depth: int | None = None, columns: int = 3, row_height: int = 210
) -> go.Figure:
    """Small multiples over depth; ``depth`` (the recommended one) is marked in each."""
    metrics = panel_metrics(table, split)
    if not metrics:
        return empty_figure(f"No separability metric was measured on the {split} split.")
    columns = min(columns, len(metrics))
    count = math.ceil(len(metrics) / columns)
    height = row_height * count + 40
    titles = [_title(metric) for metric in metrics]
    figure = make_subplots(
        rows=count,
        cols=columns,
        subplot_titles=titles,
        horizontal_spacing=0.075,
        vertical_spacing=min(0.5 / count, 84 / height),
    )
    depths = sorted(int(d) for d in table.loc[table["split"] == split, "depth"].unique())
    for index, metric in enumerate(metrics):
        row, column = divmod(index, columns)
        _add_metric(figure, per_depth(table, metric, split), metric, row + 1, column + 1)
        if depth is not None:
            figure.add_vline(
                x=depth, line={"color": "#b3261e", "width": 1, "dash": "dash"}, row=row + 1, col=column + 1
            )
    lowest = {index % columns: index // columns + 1 for index in range(len(metrics))}
    for column, row in lowest.items():
        figure.update_xaxes(title="depth (stages)", row=row, col=column + 1)
    step = max(1, len(depths) // 8)
    figure.update_xaxes(tickvals=depths[::step], range=[depths[0] - 0.4, depths[-1] + 0.4])
    figure.update_annotations(font={"size": 13}, xanchor="center", yanchor="bottom")
    figure.update_layout(template=TEMPLATE, height=height, showlegend=False, margin={"t": 52, "l": 50, "r": 12})
    return figure


def _title(metric: str) -> str:
    known = metric_title(metric)
    return f"<b>{known.title}</b><br><span style='font-size:11px;color:{MUTED}'>{BETTER[known.better]}</span>"


def _add_metric(figure: go.Figure, rows: pd.DataFrame, metric: str, row: int, column: int) -> None:
    colour = SERIES[0]
    bars = rows[["low", "high"]].notna().all(axis=1)
    figure.add_scatter(
        x=rows["depth"],
        y=rows["value"],
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 6},
        name=metric,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": (rows["high"] - rows["value"]).where(bars, 0.0),
            "arrayminus": (rows["value"] - rows["low"]).where(bars, 0.0),
            "thickness": 1,
            "width": 2,
        }
        if bars.any()
        else None,
        text=[label(stage) for stage in rows["stage"]],
        customdata=[label(note, 80) if note else "" for note in rows["note"]],
        hovertemplate=f"<b>{metric_title(metric).title}</b><br>depth %{{x}}: %{{text}}<br>%{{y:.4g}}"
        "<br>%{customdata}<extra></extra>",
        row=row,
        col=column,
    )
