"""One look for every figure: template, colours, and how metrics are titled."""

import html
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from lwexplain.text import plain

FONT = "Inter, 'Source Sans Pro', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
INK = "#1f2933"
MUTED = "#5f6c7b"
GRID = "#e6e9ee"
ACCENT = "#b3261e"
TOLERANCE = "rgba(240, 180, 40, 0.20)"

# Okabe and Ito (2008): distinct for all common forms of colour blindness.
SERIES = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b5b95", "#7f7f7f"]

# Up to 20 classes: Okabe-Ito first, then tones of other lightness; marker shapes repeat the distinction.
CLASS_COLOURS = [
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8c6d1f", "#5b3a8e", "#111111", "#9aa5b1",
    "#b8d00a", "#7a0019", "#00c2a8", "#ff7fa7", "#003f5c", "#f5d000", "#4c8c2b", "#a05eff", "#c49c94", "#ff4f2e",
]  # fmt: skip
CLASS_SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "x", "star", "pentagon"]

# White to dark blue, in even steps of lightness: for shares and similarities.
SEQUENTIAL = [[0.0, "#f7fafd"], [0.25, "#c9dff0"], [0.5, "#8fbfe0"], [0.75, "#3f8ec4"], [1.0, "#0b4a86"]]

Direction = Literal["higher", "lower", None]


@dataclass(frozen=True)
class MetricTitle:
    """How a metric is shown: ``title``, which direction is better (None = neither), and its ``family``."""

    title: str
    better: Direction = None
    family: str = "other"


# What a chart of each family is headed by, in the order in which they are shown.
FAMILIES = {
    "separability": "How well the classes separate",
    "collapse": "Neural collapse: 0 where every class has become one point",
    "geometry": "Geometry of the features",
    "layout": "How true the two-dimensional layouts are",
    "other": "Further measures",
}

METRIC_TITLES = {
    "head_accuracy": MetricTitle("trained head", "higher"),
    "linear_probe_accuracy": MetricTitle("linear probe", "higher"),
    "mlp_probe_accuracy": MetricTitle("MLP probe", "higher"),
    "knn_accuracy": MetricTitle("nearest neighbours", "higher"),
    "ncm_accuracy": MetricTitle("nearest class mean", "higher"),
    "separability_index": MetricTitle("separability index", "higher", "separability"),
    "knn_purity": MetricTitle("neighbours of the own class", "higher", "separability"),
    "hypothesis_margin": MetricTitle("hypothesis margin", "higher", "separability"),
    "silhouette": MetricTitle("silhouette", "higher", "separability"),
    "dsi": MetricTitle("distance separability (DSI)", "higher", "separability"),
    "gdv": MetricTitle("discrimination value (GDV)", "lower", "separability"),
    "fisher_ratio": MetricTitle("Fisher ratio", "higher", "separability"),
    "separation_law": MetricTitle("separation law", "lower", "separability"),
    "davies_bouldin": MetricTitle("Davies-Bouldin", "lower", "separability"),
    "calinski_harabasz": MetricTitle("Calinski-Harabasz", "higher", "separability"),
    "nc1": MetricTitle("NC1 within-class spread", "lower", "collapse"),
    "nc2": MetricTitle("NC2 distance to simplex", "lower", "collapse"),
    "nc2_equinorm": MetricTitle("NC2 unequal lengths", "lower", "collapse"),
    "nc2_equiangularity": MetricTitle("NC2 unequal angles", "lower", "collapse"),
    "nc2_maximal_angle": MetricTitle("NC2 short of widest angle", "lower", "collapse"),
    "nc3": MetricTitle("NC3 head-mean mismatch", "lower", "collapse"),
    "nc4": MetricTitle("NC4 nearest-mean mismatch", "lower", "collapse"),
    "effective_rank": MetricTitle("effective rank", family="geometry"),
    "participation_ratio": MetricTitle("participation ratio", family="geometry"),
    "saturation": MetricTitle("saturation", family="geometry"),
    "intrinsic_dimension": MetricTitle("intrinsic dimension", family="geometry"),
    "receptive_field": MetricTitle("receptive field (pixels)", family="geometry"),
    "receptive_field_shortest": MetricTitle("receptive field, shortest path", family="geometry"),
    "beyond_border": MetricTitle("beyond the border (1 = yes)", family="geometry"),
    "trustworthiness": MetricTitle("UMAP trustworthiness", "higher", "layout"),
    "neighbors_kept": MetricTitle("UMAP neighbours kept", "higher", "layout"),
    "layout_shift": MetricTitle("UMAP shift of points", "lower", "layout"),
    "pca_trustworthiness": MetricTitle("PCA trustworthiness", "higher", "layout"),
    "pca_neighbors_kept": MetricTitle("PCA neighbours kept", "higher", "layout"),
    "cka_linear": MetricTitle("linear CKA"),
    "cka_rbf": MetricTitle("RBF CKA"),
    "parameters": MetricTitle("parameters", "lower"),
    "flops": MetricTitle("FLOPs", "lower"),
    "latency_seconds": MetricTitle("latency (s)", "lower"),
    "memory_bytes": MetricTitle("memory (bytes)", "lower"),
}

SIMILARITIES = ("cka_linear", "cka_rbf")

# What follows the source of predictions (head, linear_probe) in the name of a metric about single samples.
SAMPLE_DEPTHS = {
    "_first_correct": MetricTitle("first right here"),
    "_cumulative_correct": MetricTitle("right here or before", "higher"),
    "_right_early_wrong_late": MetricTitle("right before, wrong here", "lower"),
}


def metric_title(metric: str) -> MetricTitle:
    """Title and better direction of ``metric``; a custom probe's metric is titled by its own name."""
    if is_balanced(metric):
        return MetricTitle(
            f"{metric_title(metric.replace('_balanced_accuracy', '_accuracy')).title}, balanced", "higher"
        )
    for ending, known in SAMPLE_DEPTHS.items():
        source = METRIC_TITLES.get(f"{metric.removesuffix(ending)}_accuracy")
        if metric.endswith(ending) and source:
            return MetricTitle(f"{source.title}: {known.title}", known.better)
    return METRIC_TITLES.get(metric) or MetricTitle(label(metric.replace("_", " ")))


def is_accuracy(metric: str) -> bool:
    return metric.endswith("_accuracy")


def is_balanced(metric: str) -> bool:
    """Whether a metric is a balanced accuracy, which stands beside an accuracy."""
    return metric.endswith("_balanced_accuracy")


def is_similarity(metric: str) -> bool:
    """Whether a metric compares two stages, the other one in the column ``class``."""
    return metric in SIMILARITIES


def is_sample_depth(metric: str) -> bool:
    """Whether a metric is a share of samples by the depth at which they are right."""
    return metric.endswith(tuple(SAMPLE_DEPTHS))


def label(text: object, longest: int = 40) -> str:
    """Foreign text (class, stage and run names) for a figure: plotly reads a little HTML, so it is escaped."""
    return html.escape(plain(" ".join(str(text).split()), longest), quote=False)


def class_colour(index: int) -> str:
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def class_symbol(index: int) -> str:
    """Shape of a class's points: colours alone do not tell twenty classes apart."""
    return CLASS_SYMBOLS[(index // 5) % len(CLASS_SYMBOLS)]


def translucent(colour: str, alpha: float) -> str:
    """``#rrggbb`` as ``rgba(r, g, b, alpha)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def _template() -> go.layout.Template:
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "#c3cad3",
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#c3cad3",
        "tickfont": {"size": 12, "color": MUTED},
        "title": {"font": {"size": 13, "color": INK}, "standoff": 10},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "title": {"font": {"size": 16, "color": INK}, "x": 0, "xref": "paper", "xanchor": "left"},
            "colorway": SERIES,
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
            "margin": {"l": 60, "r": 24, "t": 64, "b": 56},
            "hoverlabel": {"bgcolor": "white", "bordercolor": "#c3cad3", "font": {"size": 12, "color": INK}},
        }
    )


TEMPLATE = _template()


def empty_figure(message: str, height: int = 220) -> go.Figure:
    """A figure that says why there is nothing to draw."""
    figure = go.Figure()
    figure.add_annotation(text=label(message, 200), showarrow=False, font={"size": 14, "color": MUTED}, x=0.5, y=0.5)
    figure.update_xaxes(visible=False, range=[0, 1])
    figure.update_yaxes(visible=False, range=[0, 1])
    figure.update_layout(template=TEMPLATE, height=height, margin={"l": 8, "r": 8, "t": 8, "b": 8})
    return figure
