"""At which depth samples are right: where each first is, what is lost again later, and what is taken for what."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwexplain.advice.curve import ACCURACY_SOURCES
from lwexplain.table import per_depth
from lwexplain.views.heatmap import SQUARE_CELL, heatmap, row_axis, square
from lwexplain.views.metrics import title_of
from lwexplain.views.theme import ACCENT, SERIES, TEMPLATE, empty_figure, label
from lwexplain.views.vertical_lines import add_vertical_lines

MOST_CLASSES = 20
RIGHT = "#e3e7ec"
CURVES = (
    ("cumulative_correct", "right here or before", SERIES[2], "solid"),
    ("accuracy", "right here", SERIES[0], "solid"),
    ("right_early_wrong_late", "right before, wrong here", SERIES[1], "dash"),
)


def sample_depth_source(table: pd.DataFrame, split: str = "val") -> str | None:
    """Whose predictions tell most about the depth of samples: of the heads, or of the linear probes where more stages
    have one; None where there are neither."""
    rows = table[table["split"] == split]
    stages = {source: int((rows["metric"] == f"{source}_first_correct").sum()) for source in ACCURACY_SOURCES}
    best = max(ACCURACY_SOURCES, key=lambda source: stages[source])  # of equals the first
    return best if stages[best] else None


def sample_depth_figure(
    table: pd.DataFrame, source: str, *, split: str = "val", depth: int | None = None, height: int = 320
) -> go.Figure:
    """Left, the share of samples that are first right at each depth; right, what is right so far and what is lost.

    The distance between the two upper curves on the right is the third one: samples that a stage before had right and
    this one has not. ``depth``, the recommended one, is marked.
    """
    first = per_depth(table, f"{source}_first_correct", split)
    if first.empty:
        return empty_figure(f"No depth of samples was measured on the {split} split.")
    figure = make_subplots(
        cols=2,
        subplot_titles=["<b>samples first right at a depth</b>", "<b>right so far, right now, and lost again</b>"],
        horizontal_spacing=0.09,
    )
    _add_bars(figure, first, per_depth(table, f"{source}_cumulative_correct", split))
    _add_curves(figure, table, source, split)
    if depth is not None:
        places = [(depth, 1, column) for column in (1, 2)]
        add_vertical_lines(figure, places, {"color": ACCENT, "width": 1, "dash": "dash"}, layer="below")
    _lay_out(figure, [int(d) for d in first["depth"]], height)
    return figure


def _add_bars(figure: go.Figure, first: pd.DataFrame, sofar: pd.DataFrame) -> None:
    """Left: a bar for each depth, and one for the samples that are never right."""
    never = 1.0 - float(sofar["value"].iloc[-1]) if not sofar.empty else float("nan")
    depths = [int(d) for d in first["depth"]]
    figure.add_bar(
        x=[*depths, depths[-1] + 1],
        y=[*first["value"], never],
        marker={"color": [SERIES[0]] * len(depths) + ["#9aa5b1"]},
        text=[f"{value:.1%}" for value in [*first["value"], never]] if len(depths) <= 12 else None,
        textposition="outside",
        textfont={"size": 11},
        cliponaxis=False,
        customdata=[*(label(stage) for stage in first["stage"]), "never right"],
        hovertemplate="%{customdata}<br>%{y:.2%} of the samples<extra></extra>",
        showlegend=False,
        col=1,
        row=1,
    )


def _add_curves(figure: go.Figure, table: pd.DataFrame, source: str, split: str) -> None:
    """Right: what is right so far, what is right here, and what is lost."""
    for ending, title, colour, dash in CURVES:
        rows = per_depth(table, f"{source}_{ending}", split)
        if not rows.empty:
            figure.add_scatter(
                x=rows["depth"],
                y=rows["value"],
                name=title,
                mode="lines+markers",
                line={"color": colour, "width": 2, "dash": dash},
                marker={"size": 6},
                text=[label(stage) for stage in rows["stage"]],
                hovertemplate=f"<b>{title}</b><br>depth %{{x}}: %{{text}}<br>%{{y:.2%}}<extra></extra>",
                col=2,
                row=1,
            )


def _lay_out(figure: go.Figure, depths: Sequence[int], height: int) -> None:
    """Axes and legend; of many depths not all are numbered."""
    step = max(1, len(depths) // 12)
    ticks = depths[::step]
    figure.update_xaxes(tickvals=[*ticks, depths[-1] + 1], ticktext=[*map(str, ticks), "never"], col=1)
    figure.update_xaxes(tickvals=ticks, col=2)
    figure.update_xaxes(title="depth (stages)")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    figure.update_annotations(font={"size": 13})
    figure.update_layout(
        template=TEMPLATE,
        height=height,
        bargap=0.25,
        margin={"t": 36, "b": 76},
        legend={"x": 0.55, "y": -0.24, "yanchor": "top"},
    )


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> go.Figure:
    """Heat map of ``counts`` (K, K): class of the sample by row, predicted class by column.

    Colours are errors as a share of their row, so that the many that are right (grey) do not outshine them. Of more
    than 20 classes the 20 with most errors are shown, which the title says. The row of a class without samples is empty
    and says so.
    """
    errors = counts.sum(1) + counts.sum(0) - 2 * counts.diagonal()
    shown = np.arange(len(counts))
    if len(counts) > MOST_CLASSES:
        shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CLASSES])
    part = counts[np.ix_(shown, shown)]
    samples = counts[shown].sum(1, keepdims=True)
    shares = np.where(samples > 0, part / np.maximum(samples, 1), np.nan)
    names = [label(classes[int(index)], 16) for index in shown]
    rows = [name if any_ else f"{name} (no samples)" for name, any_ in zip(names, samples[:, 0] > 0, strict=True)]
    said = [
        [f"{part[i, j]} of class {a} taken for {b}<br>{shares[i, j]:.1%} of the class" for j, b in enumerate(names)]
        for i, a in enumerate(names)
    ]
    hover, numbers = np.array(said, dtype=object), np.where(part > 0, part.astype(str), "")
    right = np.eye(len(part), dtype=bool)
    highest = float(np.nan_to_num(shares[~right]).max(initial=0.01))
    figure = go.Figure()
    for cells, high in ((~right, highest), (right, 1.0)):
        values, text = np.where(cells, shares, np.nan), np.where(cells, numbers, "")
        figure.add_trace(heatmap(values, names, names, low=0.0, high=high, hover=hover, text=text))
    figure.data[0].colorbar.update(tickformat=".0%", title={"text": "errors", "side": "right"})
    figure.data[0].showscale = figure.data[0].text is None
    figure.data[1].update(showscale=False, colorscale=[[0.0, RIGHT], [1.0, RIGHT]])
    square(figure, names, x_title="predicted", y_title="class")
    figure.update_layout(row_axis(rows, SQUARE_CELL))
    if len(shown) < len(counts):
        figure.update_layout(title=f"the {len(shown)} of {len(counts)} classes with most errors", margin={"t": 48})
    return figure


def source_title(source: str) -> str:
    """The source of predictions as the charts call it."""
    return title_of(f"{source}_accuracy")
