"""What every heat map of the views shares: its look, and few enough rows and ticks to read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lwexplain.views.theme import SEQUENTIAL, TEMPLATE

MOST_NUMBERS = 240  # cells beyond which the numbers in them would not be read
CELL, SQUARE_CELL, LEAST_HEIGHT, MOST_HEIGHT = 30, 38, 200, 620  # pixels


def heatmap(
    values: np.ndarray,
    x: Sequence[str],
    y: Sequence[str],
    *,
    low: float | None,
    high: float | None,
    hover: np.ndarray,
    form: str = ".2f",
    text: np.ndarray | None = None,
) -> go.Heatmap:
    """``values`` (rows, columns), first row on top once ``dress`` has been at the figure.

    The colours run from ``low`` to ``high`` (None = to the extreme). ``hover`` (rows, columns) is what a cell says,
    ``text`` what stands in it (None = the value in ``form``, where there is room for all).
    """
    roomy = values.size <= MOST_NUMBERS
    finite = values[np.isfinite(values)]
    return go.Heatmap(
        z=values,
        x=list(range(len(x))),
        y=list(range(len(y))),
        zmin=low if low is not None else float(finite.min(initial=np.inf)) if finite.size else 0.0,
        zmax=high if high is not None else float(finite.max(initial=-np.inf)) if finite.size else 1.0,
        colorscale=SEQUENTIAL,
        text=text if roomy else None,
        texttemplate=None if not roomy else f"%{{z:{form}}}" if text is None else "%{text}",
        textfont={"size": 11},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=False,
        colorbar={"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}, "x": 1.01, "xpad": 4},
        xgap=1,
        ygap=1,
    )


def dress(
    figure: go.Figure, x: Sequence[str], y: Sequence[str], *, x_title: str = "", y_title: str = "", cell: int = CELL
) -> None:
    """Ticks with the names, not more than can be read, and a height of ``cell`` pixels a row where they are few."""
    rows = row_axis(y, cell)
    bare = {"showgrid": False, "showline": False, "ticks": "", "ticklabelstandoff": 4}
    figure.update_xaxes(**_ticks(x, 20), title=x_title, range=[-0.5, len(x) - 0.5], **bare)
    figure.update_yaxes(title=y_title, **bare)
    figure.update_layout(rows, template=TEMPLATE, margin={"t": 24, "l": 8, "r": 8, "b": 8})


def row_axis(y: Sequence[str], cell: int = CELL) -> dict[str, Any]:
    """What a layout needs for the rows ``y``, as flat keys: ticks, range and height. A menu that changes the rows must
    set all of it, or the axis of the first rows cuts the others off."""
    height = max(LEAST_HEIGHT, min(cell, MOST_HEIGHT // max(1, len(y))) * len(y) + 110)
    ticks = {f"yaxis_{key}": value for key, value in _ticks(y, 40).items()}
    return {**ticks, "yaxis_range": [len(y) - 0.5, -0.5], "height": height}


def square(figure: go.Figure, names: Sequence[str], *, x_title: str = "", y_title: str = "") -> None:
    """``dress`` for a table of the same things by row and by column: its cells are squares."""
    dress(figure, names, names, x_title=x_title, y_title=y_title, cell=SQUARE_CELL)
    slanted = max(map(len, names), default=0) * len(names) > 40
    figure.update_xaxes(constrain="domain", constraintoward="left", tickangle=-45 if slanted else 0)
    figure.update_yaxes(constrain="domain", constraintoward="top", scaleanchor="x")


def _ticks(names: Sequence[str], most: int) -> dict[str, list[object]]:
    every = -(-len(names) // most)
    places = list(range(0, len(names), every))
    return {"tickvals": list(places), "ticktext": [names[place] for place in places]}
