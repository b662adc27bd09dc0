"""One look for every figure: template, colours, marker shapes, and how foreign text is written in it."""

import html

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
