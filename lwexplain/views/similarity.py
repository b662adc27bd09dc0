"""How alike the stages are: a heat map of every stage against every other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lwexplain.table import without_info
from lwexplain.views.heatmap import heatmap, square
from lwexplain.views.metrics import Metrics
from lwexplain.views.theme import empty_figure, label


def similarity_metrics(table: pd.DataFrame) -> list[str]:
    """The similarities of stages that were measured."""
    known = Metrics.of(table)
    present = table.loc[table["value"].notna(), "metric"].astype(str).unique()
    return known.in_order([metric for metric in present if known.is_similarity(metric)])


def similarity_figure(table: pd.DataFrame, metric: str = "cka_linear", *, split: str = "val") -> go.Figure:
    """Stage x stage, from the rows of ``metric`` whose ``class`` is the other stage; shallow stages top left."""
    title, table = Metrics.of(table).label(metric), without_info(table)
    rows = table[(table["metric"] == metric) & (table["split"] == split) & table["class"].notna()]
    stages = list(table.drop_duplicates("stage").sort_values("depth")["stage"])
    rows = rows[rows["class"].isin(stages)].drop_duplicates(["stage", "class"])
    if not rows["value"].notna().any():
        return empty_figure(f"No {title} was measured on the {split} split.")
    stages = [stage for stage in stages if stage in set(rows["stage"])]
    values = rows.pivot(index="stage", columns="class", values="value").reindex(index=stages, columns=stages)
    said = {(row["stage"], row["class"]): _said(row) for row in rows.to_dict("records")}
    hover = np.array([[said.get((a, b), "not measured") for b in stages] for a in stages], dtype=object)
    names = [label(stage, 16) for stage in stages]
    numbers = values.to_numpy(dtype=float)
    low = min(0.0, float(np.nanmin(numbers)))
    cells = heatmap(numbers, names, names, low=low, high=1.0, hover=hover)
    figure = go.Figure(cells.update(showscale=cells.text is None and cells.texttemplate is None))
    square(figure, names)
    return figure


def _said(row: Mapping[Any, Any]) -> str:
    text = f"{label(row['stage'])} and {label(row['class'])}: {row['value']:.4f}"
    if not (pd.isna(row["low"]) or pd.isna(row["high"])):
        text += f"<br>95 % interval {row['low']:.4f} to {row['high']:.4f}"
    return text + (f"<br>{label(row['note'], 90)}" if row["note"] else "")
