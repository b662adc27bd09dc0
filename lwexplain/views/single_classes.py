"""What was measured of single classes: a heat map of class and stage, and the pairs that separate least."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lwexplain.metrics import is_accuracy
from lwexplain.table import TableInfo, without_info
from lwexplain.views.heatmap import dress, heatmap, row_axis
from lwexplain.views.metrics import Metrics
from lwexplain.views.theme import label

MOST_CLASSES = 20
MOST_PAIRS = 5
BETWEEN = " | "  # between the two class names of a pair (probes.base.pair_of)


def of_one_class(table: pd.DataFrame) -> pd.Series:
    """Which rows of the long table are about one of its classes: a flag for each row."""
    classes = TableInfo.of(table).classes
    return table["class"].isin(classes) & ~_are_similarities(table)


def of_a_pair(table: pd.DataFrame) -> pd.Series:
    """Which rows of the long table are about a pair of its classes: a flag for each row."""
    classes = set(TableInfo.of(table).classes)
    texts = table["class"].dropna().unique()
    pairs = [text for text in texts if text not in classes and _is_pair(str(text), classes)]
    return table["class"].isin(pairs) & ~_are_similarities(table)


def class_figure(table: pd.DataFrame) -> go.Figure | None:
    """Heat map of class and stage with a menu of the measures there are of single classes; None without any.

    Every measure has a row for every class that any of them has, so that the menu does not move the rows: a class that
    a split lacks has an empty one, whose name says so. Of more than 20 classes the 20 that do worst at the last stage
    are shown, which the menu says.
    """
    known, classes = Metrics.of(table), TableInfo.of(table).classes
    rows = without_info(table)[of_one_class(table) & table["value"].notna()]
    measures = list(rows[["metric", "split"]].drop_duplicates().itertuples(index=False, name=None))
    measured = rows.groupby(["metric", "split"])["stage"].nunique()
    measures.sort(key=lambda item: (not is_accuracy(str(item[0])), -measured[item], item[1] != "val"))
    if not measures:
        return None
    stages = list(rows.drop_duplicates("stage").sort_values("depth")["stage"])
    named = set(rows["class"])
    classes = [name for name in dict.fromkeys(classes) if name in named]
    parts = [_part(rows, known, metric, split, stages, classes) for metric, split in measures]
    names = [label(stage, 14) for stage in stages]
    figure = go.Figure()
    for number, (metric, _, numbers, shown) in enumerate(parts):
        hover = _hover(numbers, stages, shown)
        share = is_accuracy(metric)
        form = ".3f" if share else ".3~g"
        trace = heatmap(numbers, names, shown, low=None, high=1.0 if share else None, hover=hover, form=form)
        if known[metric].better == "lower":
            trace.reversescale = True
        figure.add_trace(trace.update(visible=number == 0))
    axes = [row_axis(_row_names(numbers, shown)) for _, _, numbers, shown in parts]
    dress(figure, names, _row_names(*parts[0][2:]))
    buttons = [
        {
            "label": title,
            "method": "update",
            "args": [
                {"visible": [other == number for other in range(len(parts))]},
                {key.replace("yaxis_", "yaxis."): value for key, value in axes[number].items()},
            ],
        }
        for number, (_, title, _, _) in enumerate(parts)
    ]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 10}}
    figure.update_layout(
        updatemenus=[menu | {"bgcolor": "white", "bordercolor": "#c3cad3", "font": {"size": 13}}], margin={"t": 56}
    )
    return figure


@dataclass(frozen=True)
class ClosestPairs:
    """The pairs of classes that separate least by ``metric``, the worst first: ``rows`` has a row for each stage
    and a column for each place."""

    metric: str
    rows: pd.DataFrame


def closest_pairs_table(table: pd.DataFrame, *, split: str = "val", most: int = MOST_PAIRS) -> ClosestPairs | None:
    """The closest pairs by the first metric that was measured of pairs; None without any."""
    known = Metrics.of(table)
    rows = without_info(table)[of_a_pair(table) & (table["split"] == split) & table["value"].notna()]
    metrics = [str(metric) for metric in rows["metric"].unique() if known[str(metric)].better]
    if not metrics:
        return None
    rows = rows[rows["metric"] == metrics[0]]
    rows = rows.sort_values(["depth", "value"], ascending=[True, known[metrics[0]].better == "higher"])
    found = []
    for (_, stage), part in rows.groupby(["depth", "stage"], sort=False):
        cells = [f"{row['class']}  ({row['value']:.3g})" for row in part.head(most).to_dict("records")]
        found.append([stage, *cells, *[""] * (most - len(cells))])
    frame = pd.DataFrame(found, columns=["stage", *(f"{place}." for place in range(1, most + 1))])
    return ClosestPairs(metrics[0], frame.loc[:, (frame != "").any()])


def _are_similarities(table: pd.DataFrame) -> pd.Series:
    """Which rows compare two stages, whose names may be those of classes: a flag for each row."""
    known = Metrics.of(table)
    return known.which(table["metric"], known.is_similarity)


def _is_pair(text: str, classes: set[str]) -> bool:
    """Class names may hold the separator themselves, so that every place of it is tried."""
    parts = text.split(BETWEEN)
    return any(
        BETWEEN.join(parts[:cut]) in classes and BETWEEN.join(parts[cut:]) in classes for cut in range(1, len(parts))
    )


def _part(
    rows: pd.DataFrame, known: Metrics, metric: str, split: str, stages: list[str], classes: list[str]
) -> tuple[str, str, np.ndarray, list[str]]:
    """Metric, title, values (classes, stages) and the classes shown of one measure."""
    part = rows[(rows["metric"] == metric) & (rows["split"] == split)].drop_duplicates(["stage", "class"])
    wide = part.pivot(index="class", columns="stage", values="value")
    present = [name for name in classes if name in wide.index]
    wide = wide.reindex(index=present if len(classes) > MOST_CLASSES else classes, columns=stages)
    title = f"{known.label(metric)}, {split}"
    if len(present) > MOST_CLASSES:
        last = wide.ffill(axis=1).iloc[:, -1]
        worst = last.sort_values(ascending=known[metric].better != "lower", kind="stable").index[:MOST_CLASSES]
        wide, title = wide.loc[list(worst)], f"{title}: the {MOST_CLASSES} worst of {len(present)} classes"
    return metric, title, wide.to_numpy(dtype=float), [str(name) for name in wide.index]


def _row_names(numbers: np.ndarray, classes: list[str]) -> list[str]:
    """The names of the rows; those without a number say so."""
    empty = ~np.isfinite(numbers).any(axis=1)
    return [label(name, 20) + (" (not measured)" if bare else "") for name, bare in zip(classes, empty, strict=True)]


def _hover(numbers: np.ndarray, stages: list[str], classes: list[str]) -> np.ndarray:
    said: list[list[Any]] = [
        [f"class {label(name)}<br>{label(stage)}: {value:.4g}" for stage, value in zip(stages, row, strict=True)]
        for name, row in zip(classes, numbers, strict=True)
    ]
    return np.array(said, dtype=object)
