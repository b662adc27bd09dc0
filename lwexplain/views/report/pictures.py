"""The sections of the report with pictures: embeddings of the samples, and attributions over the stages."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from lwexplain.results import Analysis, AttributionSet, list_embeddings, read_attributions
from lwexplain.text_table import TextTable
from lwexplain.views import contents
from lwexplain.views.attribution_quality import EXPLANATION, attribution_quality
from lwexplain.views.embedding import embedding_overview
from lwexplain.views.gallery import attribution_grid_html, invalid_images, invalid_reasons, legend_html
from lwexplain.views.report.draft import Draft

MOST_IMAGES = 8
"""Rows of the attribution grid."""

MOST_POINTS = 4000
"""Points of an embedding, over all the stages shown."""


def embeddings(draft: Draft) -> dict[str, Any]:
    """A part for each method that laid the samples out."""
    methods = draft.attempt("Embeddings", lambda: list_embeddings(draft.run)) or []
    parts = [draft.attempt(f"Embedding {method}", partial(_embedding, draft, method)) for method in methods]
    return {"embeddings": [part for part in parts if part]}


def _embedding(draft: Draft, method: str) -> dict[str, Any]:
    shown = _few_stages(draft.stages, draft.depth)
    frame = contents.checked_embedding(draft.run, method)
    samples = frame["sample"].drop_duplicates()
    most = max(1, MOST_POINTS // len(shown))
    note = ""
    if len(samples) > most:
        frame = frame[frame["sample"].isin(samples.sample(most, random_state=0))]
        note = f"{most} of {len(samples)} samples are drawn."
    return {
        "method": method,
        "figure": draft.add(embedding_overview(frame, shown, draft.classes)),
        "splits": ", ".join(sorted(map(str, frame["split"].unique()))),
        "note": note,
        "quality": contents.layout_quality(draft.table, method),
    }


def _few_stages(stages: list[str], depth: int | None) -> list[str]:
    """At most four stages: the first, the middle, the recommended one and the last."""
    last = len(stages) - 1
    wanted = {0, last, last // 2 if depth is None else max(0, min(depth - 1, last))}
    for extra in (last // 2, last // 3, 2 * last // 3):
        if len(wanted) < min(4, len(stages)):
            wanted.add(extra)
    return [stages[index] for index in sorted(wanted)]


def attributions(draft: Draft) -> dict[str, Any]:
    """A part for each method that explained images."""
    found = draft.attempt("Attributions", lambda: read_attributions(draft.run))
    if found is None:
        return {"attributions": []}
    parts = [
        draft.attempt(f"Attribution {method}", partial(_attribution, draft.table, found, item))
        for method, item in found.attributions.items()
    ]
    return {"attributions": [part for part in parts if part]}


def _attribution(table: pd.DataFrame, found: Analysis, item: AttributionSet) -> dict[str, Any] | None:
    images, labels = found.attribution_images, found.attribution_labels
    if images is None or labels is None:
        return None
    rows = range(min(MOST_IMAGES, len(images)))
    grid = attribution_grid_html(item, images, labels, found.summary["classes"], rows=rows, side=64)
    return {
        "method": item.method,
        "grid": Markup(grid),
        "legend": Markup(legend_html(item)),
        "invalid": invalid_reasons(item),
        "invalid_images": invalid_images(item),
        "quality": _quality(attribution_quality(table, item)),
        "explanation": EXPLANATION,
        "note": f"{MOST_IMAGES} of {len(images)} images are shown." if len(images) > MOST_IMAGES else "",
    }


def _quality(quality: pd.DataFrame) -> TextTable:
    """A row for each stage; cells without a number are empty."""

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return value
        return "" if np.isnan(value) else f"{value:.3g}"

    rows = [[cell(value) for value in row] for row in quality.itertuples(index=False, name=None)]
    return TextTable([str(column) for column in quality.columns], rows)
