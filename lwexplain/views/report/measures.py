"""The sections of the report that show what was measured: over depth, of samples and classes, of stages, and costs."""

from functools import partial
from typing import Any

import plotly.graph_objects as go

from lwexplain.costs import cost_metrics
from lwexplain.probes.sample_depth import confusion
from lwexplain.views import contents
from lwexplain.views.costs import cost_figure
from lwexplain.views.metrics import Metrics
from lwexplain.views.report.draft import Draft, text_table
from lwexplain.views.sample_depth import confusion_figure, sample_depth_figure, sample_depth_source, source_title
from lwexplain.views.separability import panel_families, separability_figure
from lwexplain.views.similarity import similarity_figure, similarity_metrics
from lwexplain.views.single_classes import class_figure, closest_pairs_table
from lwexplain.views.training_curves import training_figure

MOST_FURTHER = 120
"""Rows of the table of further measurements."""


def measures(draft: Draft) -> dict[str, Any]:
    """A figure for each family of measures over depth."""
    families = draft.attempt("Measures over depth", lambda: panel_families(draft.table)) or {}
    figure = partial(separability_figure, draft.table, depth=draft.depth)
    return {
        "panels": [(title, draft.draw(title, partial(figure, metrics=metrics))) for title, metrics in families.items()]
    }


def samples(draft: Draft) -> dict[str, Any]:
    """At which depth single samples are right."""
    return {"samples": draft.attempt("Single samples", lambda: _samples(draft))}


def _samples(draft: Draft) -> dict[str, Any] | None:
    """Also the confusions at the recommended stage (without one, at the last)."""
    source = sample_depth_source(draft.table)
    if source is None:
        return None
    predictions = contents.checked_predictions(draft.run)
    here = predictions[(predictions["source"] == source) & (predictions["split"] == "val")]
    stages = here.drop_duplicates("depth").sort_values("depth")
    chosen = stages[stages["depth"] == draft.depth] if draft.depth in set(stages["depth"]) else stages.tail(1)
    stage = str(chosen["stage"].iloc[0])
    counts = confusion(predictions, stage, source=source, split="val", classes=draft.classes)
    drawn = sample_depth_figure(draft.table, source, depth=draft.depth), confusion_figure(counts, draft.classes)
    figure, of_classes = map(draft.add, drawn)
    return {"source": source_title(source), "figure": figure, "stage": stage, "confusion": of_classes}


def classes(draft: Draft) -> dict[str, Any]:
    """Measures of single classes, and the pairs of classes that separate least."""
    return {
        "classes": draft.draw("Single classes", lambda: class_figure(draft.table)),
        "pairs": draft.attempt("Pairs of classes", lambda: _pairs(draft)),
    }


def _pairs(draft: Draft) -> dict[str, Any] | None:
    pairs = closest_pairs_table(draft.table)
    if pairs is None:
        return None
    return {"metric": Metrics.of(draft.table).title(pairs.metric), "table": text_table(pairs.rows)}


def similarities(draft: Draft) -> dict[str, Any]:
    """How alike the stages are, a figure for each measure of it."""
    metrics = draft.attempt("Similarity of the stages", lambda: similarity_metrics(draft.table)) or []
    title = Metrics.of(draft.table).title
    return {
        "similarities": [
            (title(metric), draft.draw(metric, partial(similarity_figure, draft.table, metric))) for metric in metrics
        ]
    }


def costs(draft: Draft) -> dict[str, Any]:
    """What each depth costs."""

    def figure() -> go.Figure | None:
        measured = draft.table["metric"].isin(cost_metrics()).any()
        return cost_figure(draft.table, depth=draft.depth) if measured else None

    return {"costs": draft.draw("Cost of each depth", figure)}


def training(draft: Draft) -> dict[str, Any]:
    """The training curve, and what training took."""

    def figure() -> go.Figure | None:
        events = draft.run.read_events()
        return training_figure(events, sequential=contents.is_sequential(draft.run)) if events else None

    return {"training": draft.draw("Training", figure), "training_costs": contents.training_costs(draft.run)}


def further_measurements(draft: Draft) -> dict[str, Any]:
    """What no chart shows, as a table."""
    return {"further": draft.attempt("Further measurements", lambda: further_table(draft))}


def further_table(draft: Draft) -> dict[str, Any] | None:
    """The first rows, and how many are left out; None where charts show everything."""
    frame = contents.further_measurements(draft.table)
    if frame.empty:
        return None
    shown = frame.head(MOST_FURTHER)
    return {"table": text_table(shown), "left_out": len(frame) - len(shown)}
