"""The report while it is made: what it is about, its figures, and the parts that could not be read or drawn."""

from collections.abc import Callable
from typing import Any, TypeVar

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from lwexplain.advice.question import Question
from lwexplain.advice.recommend import Recommendation, recommend
from lwexplain.errors import AdviceError, LwexplainError
from lwexplain.results import read_odd_metrics
from lwexplain.run import Run
from lwexplain.text_table import TextTable
from lwexplain.views import contents
from lwexplain.views.costs import human

Part = TypeVar("Part")


class Draft:
    """A report in the making.

    ``table`` holds the measurements, ``config`` what the run was trained with ({} where that cannot be read),
    ``advice`` the recommendation, None with the reason ``no_advice``. ``figures`` are those drawn so far, as JSON that
    is safe inside a script element, and ``problems`` says which parts could not be read or drawn.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.figures: list[Markup] = []
        self.table, odd = read_odd_metrics(run)
        self.problems = [] if odd is None else [f"Measurements: {odd}"]
        self.stages, self.classes = contents.stage_names(self.table), contents.class_names(self.table)
        self.config: dict[str, Any] = self.attempt("Configuration", run.config) or {}
        on_file = self.attempt("Recommendation", lambda: run.read_json("analysis/recommendation.json"))
        question = Question.from_recommendation(on_file)  # so that the report answers what the command line answered
        unread = (None, "it could not be worked out from these measurements (see below).")
        advised = self.attempt("Recommendation", lambda: advice_of(self.table, question)) or unread
        self.advice, self.no_advice = advised

    @property
    def depth(self) -> int | None:
        """The recommended depth; None where there is none."""
        return None if self.advice is None else self.advice.depth

    def attempt(self, section: str, part: Callable[[], Part]) -> Part | None:
        """What ``part`` gives, or None and a line in the report: a run's files are a stranger's data."""
        try:
            return part()
        except LwexplainError as error:
            self.problems.append(f"{section}: {error}")
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.problems.append(f"{section}: cannot be drawn ({reason})")
        return None

    def draw(self, section: str, make: Callable[[], go.Figure | None]) -> int | None:
        """Number of the figure of a section, None where there is nothing to draw."""

        def add() -> int | None:
            figure = make()
            return None if figure is None else self.add(figure)

        return self.attempt(section, add)

    def add(self, figure: go.Figure) -> int:
        """Keep a figure; returns its number."""
        text = figure.to_json()
        assert text is not None
        for character, escaped in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"), ("\u2028", "\\u2028")):
            text = text.replace(character, escaped)
        self.figures.append(Markup(text))
        return len(self.figures) - 1


def advice_of(table: pd.DataFrame, question: Question) -> tuple[Recommendation | None, str | None]:
    """The recommendation and None, or None and why there is none."""
    try:
        return recommend(table, question), None
    except AdviceError as error:
        return None, str(error)


def text_table(frame: pd.DataFrame) -> TextTable:
    """A frame as text for a person."""
    rows = [[text_of(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return TextTable([str(column) for column in frame.columns], rows)


def text_of(value: Any) -> str:
    """A value of a cell: numbers short, a dash where there is none."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return "–"
    return human(value) if isinstance(value, float) else str(value)
