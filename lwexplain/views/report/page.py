"""The page of the report: its sections put together, and the file that it becomes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from lwexplain.run import Run
from lwexplain.run.files import atomic_path
from lwexplain.text import plain
from lwexplain.views.report.draft import Draft
from lwexplain.views.report.measures import (
    classes,
    costs,
    further_measurements,
    measures,
    samples,
    similarities,
    training,
)
from lwexplain.views.report.pictures import attributions, embeddings
from lwexplain.views.report.provenance import provenance, remarks
from lwexplain.views.report.recommendation import (
    accuracy_against_cost,
    accuracy_over_depth,
    heading,
    recommendation,
    simple_rules,
)

LONGEST_TEXT = 2000  # characters of one cell, name or sentence

SECTIONS: tuple[Callable[[Draft], dict[str, Any]], ...] = (
    heading,
    recommendation,
    simple_rules,
    accuracy_over_depth,
    accuracy_against_cost,
    measures,
    samples,
    classes,
    similarities,
    embeddings,
    attributions,
    costs,
    training,
    further_measurements,
    remarks,
    provenance,
)
"""The sections in their order; each says what the template prints of it."""


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
    draft = Draft(run)
    page: dict[str, Any] = {}
    for section in SECTIONS:
        page |= section(draft)
    return _template().render(page, problems=draft.problems, figures=draft.figures, plotly=Markup(get_plotlyjs()))


@cache
def _template() -> Template:
    """The page as a template, which is compiled once for all reports."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True, default_for_string=True),
        finalize=_shown,
        undefined=StrictUndefined,  # a name that the template has and the page has not is an error, not a gap
    )
    return environment.get_template("report.html.j2")


def _shown(value: Any) -> Any:
    """What the page prints: text in visible characters, which the template escapes; HTML of our own as it is."""
    return plain(value, LONGEST_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value
