"""The HTML report of a run: one file that opens offline, with every figure, number and its provenance."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, Template, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lwexplain.advice.question import Question
from lwexplain.costs import cost_metrics
from lwexplain.errors import AdviceError, LwexplainError
from lwexplain.probes.sample_depth import confusion
from lwexplain.results import AttributionSet, list_embeddings, read_attributions, read_odd_metrics
from lwexplain.run import Run
from lwexplain.run.files import atomic_path
from lwexplain.table import TableInfo
from lwexplain.text import plain
from lwexplain.views import contents
from lwexplain.views.attribution_quality import EXPLANATION, attribution_quality
from lwexplain.views.costs import cost_figure, human
from lwexplain.views.depth_curve import depth_figure
from lwexplain.views.embedding import embedding_overview
from lwexplain.views.gallery import attribution_grid_html, invalid_images, invalid_reasons, legend_html
from lwexplain.views.metrics import Metrics
from lwexplain.views.pareto import pareto_figure, pareto_table
from lwexplain.views.sample_depth import confusion_figure, sample_depth_figure, sample_depth_source, source_title
from lwexplain.views.separability import panel_families, separability_figure
from lwexplain.views.similarity import similarity_figure, similarity_metrics
from lwexplain.views.single_classes import class_figure, closest_pairs_table
from lwexplain.views.training_curves import training_figure

MOST_IMAGES = 8  # rows of the attribution grid
MOST_POINTS = 4000  # points of an embedding, over all the stages shown
MOST_FURTHER = 120  # rows of the table of further measurements
LONGEST_TEXT = 2000  # characters of one cell, name or sentence
LONGEST_LIST = 60  # provenance entries of one kind


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write the report to ``out`` (default: ``report.html`` in the run directory) and return its path."""
    text = render_report(run).encode("utf-8", "backslashreplace").decode("utf-8")
    if out is None:
        return run.files.write_text("report.html", text)
    with atomic_path(Path(out)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(out)


def render_report(run: Run) -> str:
    """The report as HTML text. Raises RunError where the run has no readable analysis.

    A part that cannot be read or drawn is named in the report, with the reason; the rest stands.
    """
    table, odd = read_odd_metrics(run)
    figures = _Figures()
    problems: list[str] = [] if odd is None else [f"Measurements: {odd}"]

    def attempt(section: str, part: Callable[[], Any]) -> Any:
        """What ``part`` gives, or None and a line in the report: a run's files are a stranger's data."""
        try:
            return part()
        except LwexplainError as error:
            problems.append(f"{section}: {error}")
        except Exception as error:
            problems.append(f"{section}: cannot be drawn ({type(error).__name__}: {' '.join(str(error).split())})")
        return None

    def draw(section: str, make: Callable[[], go.Figure | None]) -> int | None:
        """Number of the figure of a section, None where there is nothing to draw."""

        def add() -> int | None:
            figure = make()
            return None if figure is None else figures.add(figure)

        return attempt(section, add)

    stages, classes = contents.stage_names(table), contents.class_names(table)
    config = attempt("Configuration", run.config) or {}
    on_file = attempt("Recommendation", lambda: run.read_json("analysis/recommendation.json"))
    question = Question.from_recommendation(on_file)  # so that the report answers what the command line answered
    unread = (None, "it could not be worked out from these measurements (see below).")
    advice, no_advice = attempt("Recommendation", lambda: _advice(table, question)) or unread
    depth = advice.depth if advice else None
    numbers = attempt("Recommendation", lambda: contents.advice_numbers(advice, table)) or []
    within = contents.band(advice)
    page = {
        "name": run.path.resolve().name,
        "strategy": TableInfo.of(table).strategy,
        "model": _section(config, "model").get("name"),
        "data": _section(config, "data").get("name"),
        "created": run.manifest.get("created"),
        "advice": advice,
        "no_advice": no_advice,
        "verdict": contents.VERDICT_TITLES.get(advice.verdict, advice.verdict) if advice else None,
        "source": contents.SOURCE_TITLES.get(advice.source, advice.source) if advice else None,
        "full_depth": advice.full_depth if advice else len(stages),
        "numbers": [(value, f"{title}, {small}") for title, value, small in numbers],
        "decision": draw(
            "The deciding accuracy",
            lambda: (
                depth_figure(
                    table,
                    recommendation=advice,
                    tolerance=within,
                    metrics=[f"{advice.source}_accuracy"],
                    height=330,
                )
                if advice
                else None
            ),
        ),
        "curve": draw("Accuracy over depth", lambda: depth_figure(table, recommendation=advice, tolerance=within)),
        "pareto": attempt("Accuracy against cost", lambda: _against_cost(advice, figures)),
        "depths": attempt("Table over depth", lambda: {split: _depth_rows(table, split) for split in _splits(table)})
        or {},
        "panels": [
            (heading, draw(heading, partial(separability_figure, table, metrics=metrics, depth=depth)))
            for heading, metrics in (attempt("Measures over depth", lambda: panel_families(table)) or {}).items()
        ],
        "samples": attempt("Single samples", lambda: _samples(run, table, advice, classes, figures)),
        "classes": draw("Single classes", lambda: class_figure(table)),
        "pairs": attempt("Pairs of classes", lambda: _pairs(table)),
        "similarities": [
            (Metrics.of(table).title(metric), draw(metric, partial(similarity_figure, table, metric)))
            for metric in attempt("Similarity of the stages", lambda: similarity_metrics(table)) or []
        ],
        "costs": draw(
            "Cost of each depth",
            lambda: cost_figure(table, depth=depth) if table["metric"].isin(cost_metrics()).any() else None,
        ),
        "training": draw("Training", lambda: _training(run)),
        "training_costs": contents.training_costs(run),
        "embeddings": [
            part
            for method in attempt("Embeddings", lambda: list_embeddings(run)) or []
            if (part := attempt(f"Embedding {method}", partial(_embedding, run, table, method, stages, depth, figures)))
        ],
        "attributions": [
            part
            for method, draw_method in (attempt("Attributions", lambda: _attributions(run, table)) or {}).items()
            if (part := attempt(f"Attribution {method}", draw_method))
        ],
        "further": attempt("Further measurements", lambda: _further(table)),
        "failures": attempt("Failed probes", lambda: contents.failures(table).to_dict("records")) or [],
        "notes": attempt("Notes", lambda: contents.notes(table)) or [],
        "provenance": _provenance(run, config, attempt),
        "problems": problems,
        "figures": figures.scripts,
        "plotly": Markup(get_plotlyjs()),
    }
    return _template().render(page)


@cache
def _template() -> Template:
    """The page as a template, which is compiled once for all reports."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        finalize=_shown,
    )
    return environment.get_template("report.html.j2")


def _shown(value: Any) -> Any:
    """What the page prints: text in visible characters, which the template escapes; HTML of our own as it is."""
    return plain(value, LONGEST_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value


class _Figures:
    """Figures of the page, numbered, as JSON that is safe inside a script element."""

    def __init__(self) -> None:
        self.scripts: list[Markup] = []

    def add(self, figure: go.Figure) -> int:
        text = figure.to_json()
        assert text is not None
        for character, escaped in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"), ("\u2028", "\\u2028")):
            text = text.replace(character, escaped)
        self.scripts.append(Markup(text))
        return len(self.scripts) - 1


def _advice(table: pd.DataFrame, question: Question) -> tuple[Any, str | None]:
    from lwexplain.advice.recommend import recommend

    try:
        return recommend(table, question), None
    except AdviceError as error:
        return None, str(error)


def _against_cost(advice: Any, figures: _Figures) -> dict[str, Any] | None:
    """Expected accuracy of every depth against its costs; None where there is no signal."""
    if advice is None or not advice.prospects:
        return None
    figure = pareto_figure(advice.prospects, advice.depth, advice.objective, budgets=advice.budgets)
    table = pareto_table(advice.prospects)
    return {
        "figure": figures.add(figure),
        "columns": table.header,
        "rows": table.rows,
        "depths": [prospect.depth for prospect in advice.prospects],
        "chosen_by": contents.chosen_by(advice),
    }


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _splits(table: pd.DataFrame) -> list[str]:
    present = set(table.loc[table["metric"].str.endswith("_accuracy"), "split"])
    return [split for split in ("val", "test") if split in present]


def _depth_rows(table: pd.DataFrame, split: str) -> dict[str, Any]:
    frame = contents.depth_table(table, split)
    return {
        "columns": list(frame.columns),
        "rows": [[_text(value) for value in row] for row in frame.itertuples(index=False, name=None)],
        "depths": [int(depth) for depth in frame["depth"]],
    }


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    return human(value) if isinstance(value, float) else str(value)


def _training(run: Run) -> go.Figure | None:
    events = run.read_events()
    return training_figure(events, sequential=contents.is_sequential(run)) if events else None


def _further(table: pd.DataFrame) -> dict[str, Any] | None:
    frame = contents.further_measurements(table)
    if frame.empty:
        return None
    shown = frame.head(MOST_FURTHER)
    return {
        "columns": list(shown.columns),
        "rows": [[_text(value) for value in row] for row in shown.itertuples(index=False, name=None)],
        "left_out": len(frame) - len(shown),
    }


def _samples(
    run: Run, table: pd.DataFrame, advice: Any, classes: list[str], figures: _Figures
) -> dict[str, Any] | None:
    """At which depth samples are right, and the confusions at the recommended stage (without one, at the last)."""
    source = sample_depth_source(table)
    if source is None:
        return None
    depth = advice.depth if advice else None
    predictions = contents.checked_predictions(run)
    here = predictions[(predictions["source"] == source) & (predictions["split"] == "val")]
    stages = here.drop_duplicates("depth").sort_values("depth")
    chosen = stages[stages["depth"] == depth] if depth in set(stages["depth"]) else stages.tail(1)
    stage = str(chosen["stage"].iloc[0])
    counts = confusion(predictions, stage, source=source, split="val", classes=classes)
    drawn = sample_depth_figure(table, source, depth=depth), confusion_figure(counts, classes)
    figure, of_classes = map(figures.add, drawn)
    return {"source": source_title(source), "figure": figure, "stage": stage, "confusion": of_classes}


def _pairs(table: pd.DataFrame) -> dict[str, Any] | None:
    pairs = closest_pairs_table(table)
    if pairs is None:
        return None
    return {
        "metric": Metrics.of(table).title(pairs.metric),
        "columns": list(pairs.rows.columns),
        "rows": [list(row) for row in pairs.rows.itertuples(index=False, name=None)],
    }


def _embedding(
    run: Run, table: pd.DataFrame, method: str, stages: list[str], depth: int | None, figures: _Figures
) -> dict[str, Any]:
    shown, classes = _few(stages, depth), contents.class_names(table)
    frame = contents.checked_embedding(run, method)
    samples = frame["sample"].drop_duplicates()
    most = max(1, MOST_POINTS // len(shown))
    note = ""
    if len(samples) > most:
        frame = frame[frame["sample"].isin(samples.sample(most, random_state=0))]
        note = f"{most} of {len(samples)} samples are drawn."
    splits = ", ".join(sorted(map(str, frame["split"].unique())))
    figure = figures.add(embedding_overview(frame, shown, classes))
    quality = contents.layout_quality(table, method)
    return {"method": method, "figure": figure, "splits": splits, "note": note, "quality": quality}


def _few(stages: list[str], depth: int | None) -> list[str]:
    """At most four stages: the first, the middle, the recommended one and the last."""
    last = len(stages) - 1
    wanted = {0, last, last // 2 if depth is None else max(0, min(depth - 1, last))}
    for extra in (last // 2, last // 3, 2 * last // 3):
        if len(wanted) < min(4, len(stages)):
            wanted.add(extra)
    return [stages[index] for index in sorted(wanted)]


def _attributions(run: Run, table: pd.DataFrame) -> dict[str, Callable[[], dict[str, Any]]]:
    """What draws each method."""
    found = read_attributions(run)
    if found is None or found.attribution_images is None or found.attribution_labels is None:
        return {}
    pictures = (found.attribution_images, found.attribution_labels, found.summary["classes"])
    return {
        method: partial(_attribution, item, attribution_quality(table, item), *pictures)
        for method, item in found.attributions.items()
    }


def _attribution(
    item: AttributionSet, quality: pd.DataFrame, images: np.ndarray, labels: np.ndarray, classes: list[str]
) -> dict[str, Any]:
    rows = range(min(MOST_IMAGES, len(images)))
    return {
        "method": item.method,
        "grid": Markup(attribution_grid_html(item, images, labels, classes, rows=rows, side=64)),
        "legend": Markup(legend_html(item)),
        "invalid": invalid_reasons(item),
        "invalid_images": invalid_images(item),
        "quality": {
            "columns": list(quality.columns),
            "rows": [
                ["" if value != value else value if isinstance(value, str) else f"{value:.3g}" for value in row]
                for row in quality.itertuples(index=False, name=None)
            ],
            "explanation": EXPLANATION,
        },
        "note": f"{MOST_IMAGES} of {len(images)} images are shown." if len(images) > MOST_IMAGES else "",
    }


def _provenance(
    run: Run, config: dict[str, Any], attempt: Callable[..., Any]
) -> list[tuple[str, list[tuple[str, str]]]]:
    manifest = {key: value for key, value in run.manifest.items() if key not in ("files", "format")}
    parts = (
        ("Run", manifest),
        ("Analysis", attempt("Analysis", lambda: run.read_json("analysis/analysis.json"))),
        ("Environment", attempt("Environment", lambda: run.read_json("environment.json"))),
        ("Configuration", config),
        ("Files (SHA-256)", _hashes(run)),
    )
    return [(title, list(contents.flatten(tree))[:LONGEST_LIST]) for title, tree in parts if tree]


def _hashes(run: Run) -> dict[str, str]:
    files = run.manifest.get("files")
    if not isinstance(files, dict):
        return {}
    return {str(name): str(entry.get("sha256")) for name, entry in files.items() if isinstance(entry, dict)}
