"""Two-dimensional layouts of the val samples: one stage as a scatter, or a few stages side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lwexplain.views.theme import TEMPLATE, class_colour, class_symbol, empty_figure, label

RIGHT, WRONG, UNKNOWN = "#56B4E9", "#D55E00", "#9aa5b1"


@dataclass(frozen=True)
class Group:
    """Points drawn alike: a class, or those predicted right or wrong."""

    title: str
    colour: str
    symbol: str
    members: pd.DataFrame


def embedding_figure(
    frame: pd.DataFrame,
    stage: str,
    classes: Sequence[str],
    *,
    predicted: pd.Series | None = None,
    colour_by: str = "class",
    selected: Iterable[int] = (),
    height: int = 620,
) -> go.Figure:
    """Scatter of one stage of an embedding table (``EMBEDDING_COLUMNS``), coloured by class or by right/wrong.

    ``predicted`` maps sample numbers to the class predicted at this stage; ``colour_by="outcome"`` needs it.
    Each stage is centred and scaled to the same spread (``comparable``), and the axis ranges span all stages of
    ``frame``, so that moving from stage to stage does not jump. Each point
    carries its sample number as ``customdata``; point indices are per trace. ``selected`` samples are
    highlighted.
    """
    frame = comparable(frame)
    points = frame[frame["stage"] == stage]
    if points.empty:
        return empty_figure(f"This embedding has no points for stage {stage}.", height)
    figure = go.Figure()
    chosen = set(selected)
    for group in _groups(points, classes, predicted, colour_by):
        figure.add_trace(_scatter(group, classes, predicted, chosen, size=_size(len(points)), stage=stage))
    x_range, y_range = fixed_range(frame)
    figure.update_xaxes(range=x_range, **_BARE)
    figure.update_yaxes(range=y_range, scaleanchor="x", scaleratio=1, **_BARE)
    figure.update_layout(
        template=TEMPLATE,
        height=height,
        dragmode="pan",  # Streamlit lets a click select a point unless a drag already selects
        uirevision="embedding",
        margin={"l": 8, "r": 8, "t": 34, "b": 8},
        legend={"orientation": "v", "x": 1.01, "y": 1, "yanchor": "top", "itemsizing": "constant"},
    )
    return figure


def embedding_overview(
    frame: pd.DataFrame, stages: Sequence[str], classes: Sequence[str], *, height: int = 360
) -> go.Figure:
    """A few stages side by side, coloured by class, each scaled to the same spread."""
    frame = comparable(frame)
    stages = [stage for stage in stages if (frame["stage"] == stage).any()]
    if not stages:
        return empty_figure("This embedding has no points for these stages.", height)
    depth_of = frame.drop_duplicates("stage").set_index("stage")["depth"]
    figure = make_subplots(
        rows=1,
        cols=len(stages),
        subplot_titles=[f"depth {depth_of[stage]}: {label(stage, 24)}" for stage in stages],
        horizontal_spacing=0.02,
    )
    x_range, y_range = fixed_range(frame)
    in_legend: set[int] = set()
    for column, stage in enumerate(stages, start=1):
        points = frame[frame["stage"] == stage]
        for group in _groups(points, classes, None, "class"):
            number = int(group.members["label"].iloc[0])  # names may be alike once they are cut short
            trace = _scatter(group, classes, None, set(), size=4, stage=stage)
            trace.update(legendgroup=str(number), legendrank=number, showlegend=number not in in_legend)
            in_legend.add(number)
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(range=x_range, row=1, col=column, **_BARE)
        figure.update_yaxes(range=y_range, scaleanchor="x" if column == 1 else f"x{column}", row=1, col=column, **_BARE)
    figure.update_annotations(font={"size": 13})
    figure.update_layout(
        template=TEMPLATE,
        height=height,
        margin={"l": 8, "r": 8, "t": 32, "b": 8},
        legend={"orientation": "h", "y": -0.02, "yanchor": "top", "x": 0, "itemsizing": "constant"},
    )
    return figure


def fixed_range(frame: pd.DataFrame, margin: float = 0.05) -> tuple[list[float], list[float]]:
    """Ranges of x and y over all stages, with a margin."""
    ranges = []
    for axis in ("x", "y"):
        values = frame[axis].to_numpy(dtype=np.float64)
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        pad = margin * ((high - low) or 1.0)
        ranges.append([low - pad, high + pad])
    return ranges[0], ranges[1]


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """The layout with each stage centred and scaled to a root mean square radius of 1.

    Deep features are often spread a hundred times wider than shallow ones; on one scale a shallow stage would
    shrink to a dot. A layout has no unit, so nothing is lost.
    """
    frame = frame.copy()
    frame[["x", "y"]] = frame[["x", "y"]].astype(np.float64).replace([np.inf, -np.inf], np.nan)
    centred = frame[["x", "y"]] - frame.groupby("stage")[["x", "y"]].transform("mean")
    square = (centred**2).sum(axis=1).groupby(frame["stage"]).transform("mean")
    radius = np.sqrt(square).replace(0.0, 1.0)
    frame[["x", "y"]] = centred.div(radius, axis=0)
    return frame


def class_name(classes: Sequence[str], index: object) -> str:
    """Name of a class by number; a number outside of ``classes`` stays a number."""
    number = int(index)  # type: ignore[call-overload]
    return str(classes[number]) if 0 <= number < len(classes) else str(number)


_BARE = {"showticklabels": False, "ticks": "", "showgrid": False, "title": None, "showline": True, "mirror": True}


def _groups(points: pd.DataFrame, classes: Sequence[str], predicted: pd.Series | None, colour_by: str) -> list[Group]:
    if colour_by == "outcome" and predicted is not None:
        guess = points["sample"].map(predicted)
        right = guess.eq(points["label"])
        parts = [
            Group("right", RIGHT, "circle", points[right]),
            Group("wrong", WRONG, "x", points[~right & guess.notna()]),
            Group("no prediction", UNKNOWN, "circle", points[guess.isna()]),
        ]
        return [replace(part, title=f"{part.title} ({len(part.members)})") for part in parts if len(part.members)]
    numbers = sorted(int(number) for number in points["label"].unique())
    return [
        Group(
            label(class_name(classes, number), 18),
            class_colour(number),
            class_symbol(number),
            points[points["label"] == number],
        )
        for number in numbers
    ]


def _scatter(
    group: Group,
    classes: Sequence[str],
    predicted: pd.Series | None,
    chosen: set[int],
    *,
    size: float,
    stage: str,
) -> go.Scattergl:
    part = group.members
    said, texts = _hover(part, classes, predicted)
    samples = part["sample"].to_numpy(dtype=np.int64)
    positions = [i for i, sample in enumerate(samples.tolist()) if sample in chosen] if chosen else None
    return go.Scattergl(
        x=part["x"].to_numpy(dtype=np.float32),
        y=part["y"].to_numpy(dtype=np.float32),
        mode="markers",
        name=group.title,
        marker={"color": group.colour, "symbol": group.symbol, "size": size, "opacity": 0.8},
        customdata=samples.tolist(),  # a list: of a typed array, a selection would report the buffer
        text=texts,
        hovertemplate=f"sample %{{customdata}}<br>{said}<extra>{label(stage, 24)}</extra>",
        selectedpoints=positions,
        unselected={"marker": {"opacity": 0.12}},
    )


def _hover(part: pd.DataFrame, classes: Sequence[str], predicted: pd.Series | None) -> tuple[str, list[str] | None]:
    """Hover template and the text it needs of each point; what all points share is said once."""
    texts: list[str] | None = None
    labels = part["label"].unique()
    if len(labels) == 1:
        template = label(class_name(classes, labels[0]))
    else:
        template, texts = "%{text}", [label(class_name(classes, index), 24) for index in part["label"]]
    if predicted is not None:
        found = part["sample"].map(predicted)
        guesses = ["–" if pd.isna(guess) else label(class_name(classes, guess), 24) for guess in found]
        if texts is None:
            return f"{template}<br>predicted %{{text}}", guesses
        texts = [f"{name}<br>predicted {guess}" for name, guess in zip(texts, guesses, strict=True)]
    return template, texts


def _size(points: int) -> float:
    return 8 if points <= 500 else 6 if points <= 3000 else 4
