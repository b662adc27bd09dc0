"""Loss and accuracy over the epochs of training, from the events of a run."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwexplain.views.theme import GRID, MUTED, SERIES, TEMPLATE, empty_figure, label
from lwexplain.views.vertical_lines import add_vertical_lines

PANELS = ("loss", "accuracy")


def training_table(events: Iterable[Mapping[str, Any]], *, sequential: bool = False) -> pd.DataFrame:
    """Events as a long table ``epoch, stage, quantity, value``.

    Every number whose name is or ends in ``loss`` or ``accuracy`` counts. ``epoch`` runs on over the whole
    training, also where each stage counts its own: with ``sequential`` (stage after stage) a new stage begins
    a new epoch, otherwise events of several stages share one. A resumed epoch replaces the one it repeats.
    """
    rows: dict[tuple[int, str, str], dict[str, Any]] = {}
    clock = _Clock(sequential)
    for event in events:
        numbers = {k: float(v) for k, v in event.items() if _is_curve(k) and _is_number(v)}
        if not numbers or "epoch" not in event:
            continue
        stage = "" if event.get("stage") is None else str(event["stage"])
        epoch = clock.at(event["epoch"], stage)
        for quantity, value in numbers.items():
            rows[epoch, stage, quantity] = {"epoch": epoch, "stage": stage, "quantity": quantity, "value": value}
    return pd.DataFrame(list(rows.values()), columns=["epoch", "stage", "quantity", "value"])


def training_figure(events: Iterable[Mapping[str, Any]], *, sequential: bool = False, height: int = 340) -> go.Figure:
    """Loss (left) and accuracy (right) per epoch; stages trained one after another are marked at their start."""
    table = training_table(events, sequential=sequential)
    if table.empty:
        return empty_figure("No epoch has been logged yet.")
    panels = [panel for panel in PANELS if table["quantity"].str.endswith(panel).any()]
    figure = make_subplots(rows=1, cols=len(panels), horizontal_spacing=0.09)
    stages = [stage for stage in table["stage"].unique() if stage]
    one_by_one = sequential and len(stages) > 1
    named: set[str] = set()
    for column, panel in enumerate(panels, start=1):
        part = table[table["quantity"].str.endswith(panel)]
        for quantity, rows in part.groupby("quantity", sort=True):
            split = str(quantity).removesuffix(panel).strip("_").replace("_", " ") or "train"
            _add_lines(figure, rows, split, panel, column, [] if one_by_one else stages, named)
        figure.update_yaxes(title=panel, row=1, col=column)
        figure.update_xaxes(title="epoch", tickformat="d", row=1, col=column)
    if one_by_one:
        _mark_stages(figure, table, len(panels))
    figure.update_layout(template=TEMPLATE, height=height, margin={"t": 56})
    return figure


class _Clock:
    """Numbers the epochs of the whole training from the ``(epoch, stage)`` of each event."""

    def __init__(self, sequential: bool) -> None:
        self.sequential = sequential
        self.numbers: dict[tuple[str, str], int] = {}

    def at(self, epoch: Any, stage: str) -> int:
        key = (stage if self.sequential else "", str(epoch))
        return self.numbers.setdefault(key, len(self.numbers) + 1)


def _is_curve(name: str) -> bool:
    return name.endswith(PANELS)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _add_lines(
    figure: go.Figure, rows: pd.DataFrame, split: str, panel: str, column: int, stages: list[str], named: set[str]
) -> None:
    """One line; or, where stages train side by side, one for each, from pale (shallow) to full colour (deep)."""
    colour = {"train": SERIES[1], "val": SERIES[0]}.get(split, SERIES[2])
    parts = [rows[rows["stage"] == stage] for stage in stages] if len(stages) > 1 else [rows]
    for number, part in enumerate(parts, start=1):
        title = f"{split} ({len(parts)} stages, pale = shallow)" if len(parts) > 1 else split
        part = part.sort_values("epoch")
        figure.add_scatter(
            x=part["epoch"],
            y=part["value"],
            mode="lines+markers" if len(part) < 40 else "lines",
            marker={"size": 5},
            line={"color": colour, "width": 2, "dash": "dot" if split == "train" else "solid"},
            opacity=0.25 + 0.75 * number / len(parts),
            name=title,
            legendgroup=split,
            showlegend=split not in named and number == len(parts),
            text=[label(name) for name in part["stage"]],
            hovertemplate=f"<b>{split} {panel}</b><br>epoch %{{x}} %{{text}}<br>%{{y:.4g}}<extra></extra>",
            row=1,
            col=column,
        )
    named.add(split)


def _mark_stages(figure: go.Figure, table: pd.DataFrame, columns: int) -> None:
    """A line where each stage begins, its name above the chart (every second name where they crowd)."""
    starts = table.groupby("stage", sort=False)["epoch"].min()
    every = 1 + len(starts) // 10
    figure.update_xaxes(showgrid=False, range=[0.4, table["epoch"].max() + 0.6])
    panels = range(1, columns + 1)
    places = [(epoch - 0.5, 1, column) for column in panels for epoch in starts]
    add_vertical_lines(figure, places, {"color": GRID, "width": 1.5}, layer="below")
    names = [
        {
            "x": epoch - 0.5,
            "xref": "x" if column == 1 else f"x{column}",
            "y": 1.01,
            "yref": "y domain" if column == 1 else f"y{column} domain",
            "text": label(stage, 12),
            "textangle": -35,
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "bottom",
            "font": {"size": 11, "color": MUTED},
        }
        for column in panels
        for stage, epoch in list(starts.items())[::every]
    ]
    figure.update_layout(annotations=[*figure.layout.annotations, *names])
    figure.update_layout(legend={"y": 1.16})
