"""What a probe declares of a metric: its title, which direction is better, and its family; loads no torch.

A probe lists a ``Metric`` for each metric that it gives, in its attribute ``metrics``. The declarations are stored with
the analysis, so that figures, report, explorer and command line show them without the code of the probe. A metric that
nobody declares is titled by its name, and no direction is said to be better.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lwexplain.errors import ProbeError
from lwexplain.text import plain

LONGEST_TITLE = 80
"""Most characters of a title and of a family."""

FAMILIES = {
    "separability": "How well the classes separate",
    "collapse": "Neural collapse: 0 where every class has become one point",
    "geometry": "Geometry of the features",
    "layout": "How true the two-dimensional layouts are",
    "other": "Further measures",
}
"""Families whose metrics share a panel of small charts over depth -> what it is headed by, in the order of the panels.

Any other family that a probe names has a panel of its own before the last one, headed by that name.
"""

SIMILARITY = "similarity"
"""The family of metrics that compare two stages, the other one as the class of the row: a heat map shows each."""

Direction = Literal["higher", "lower", None]

DIRECTIONS = ("higher", "lower", None)
"""Which values of a metric are better: the higher ones, the lower ones, or neither."""


@dataclass(frozen=True)
class Metric:
    """A metric as its probe declares it.

    ``name`` is that of its rows in the long table and ``title`` what a person calls it, in at most 80 characters (""
    stands for the name). ``better`` says which direction is better, None that neither is. ``family`` is one of
    ``FAMILIES``, ``similarity``, or the heading of a panel of its own. Shares of samples that are right, whose names
    end in ``_accuracy``, share one figure whatever their family. Raises ProbeError for anything else.

    Examples:
        >>> lw.Metric("nc1", "NC1 within-class spread", better="lower", family="collapse").title
        'NC1 within-class spread'
        >>> lw.Metric("my_metric").title
        'my metric'
    """

    name: str
    title: str = ""
    better: Direction = None
    family: str = "other"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ProbeError(f"a Metric has the name {_shown(self.name)}; expected that of the metric's rows (str)")
        for what, value, empty in (("title", self.title, True), ("family", self.family, False)):
            if not is_title(value) and not (empty and value == ""):
                raise ProbeError(
                    f"Metric {_shown(self.name)}: its {what} is {_shown(value)}; expected printable text of at most "
                    f"{LONGEST_TITLE} characters"
                )
        if self.better not in DIRECTIONS:
            raise ProbeError(
                f"Metric {_shown(self.name)}: better is {_shown(self.better)}; expected 'higher', 'lower' or None"
            )
        if not self.title:
            object.__setattr__(self, "title", title_of_name(self.name))

    def to_dict(self) -> dict[str, Any]:
        """The declaration as it is stored with an analysis, under the name of the metric."""
        return {"title": self.title, "better": self.better, "family": self.family}


def title_of_name(name: str) -> str:
    """What a metric is called whose title nobody declares: ``my_metric`` is "my metric"."""
    return name.replace("_", " ")


def is_title(value: Any) -> bool:
    """Whether a value can be a title or a family: printable text, neither empty nor long."""
    return isinstance(value, str) and bool(value.strip()) and len(value) <= LONGEST_TITLE and value.isprintable()


def stored_metrics(stored: Mapping[str, Mapping[str, Any]]) -> dict[str, Metric]:
    """The declarations that an analysis stored (see ``Metric.to_dict``); raises ProbeError where they are none."""
    return {name: Metric(name, entry["title"], entry["better"], entry["family"]) for name, entry in stored.items()}


def is_accuracy(metric: str) -> bool:
    """Whether a metric is a share of samples that are right, which its name says, declared or not."""
    return metric.endswith("_accuracy")


def is_balanced(metric: str) -> bool:
    """Whether a metric is a balanced accuracy, which stands beside an accuracy."""
    return metric.endswith("_balanced_accuracy")


def balanced_metric(accuracy: str) -> str:
    """The name of the balanced accuracy beside an accuracy: ``head_accuracy`` -> ``head_balanced_accuracy``."""
    return f"{accuracy.removesuffix('_accuracy')}_balanced_accuracy"


def _shown(value: Any) -> str:
    return plain(repr(value), 60)
