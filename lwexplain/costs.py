"""What a network of each depth may cost, one entry a kind of cost: all that advice, views and pages say of it.

A new kind of cost is one entry of ``COSTS`` and a probe that measures its metric (split ``none``) at every stage. It is
then an objective and a budget of ``lw.recommend``, a ratio of the recommendation, a column, a chart and a field.
"""

import math
from dataclasses import dataclass
from typing import Literal

SAME_LATENCY = 0.02
"""Latencies that differ by no more than this share are the same for a choice.

A latency is measured, and a Prospect holds its median without the spread. Medians of five copies of one network that
took turns on the clock of a busy CPU lay within 1.2 % of each other, in each of twelve trials with networks of 0.15 and
1 ms. Without the margin, noise alone would now and then make a deeper network the "fastest" one.
"""


@dataclass(frozen=True)
class BudgetField:
    """How a page asks for a budget: the unit it names ("" for the cost's own), how many of the cost's own unit one of
    it is, the step of the buttons and the printf format of the number."""

    unit: str
    size: float
    step: float
    format: str


@dataclass(frozen=True)
class CostKind:
    """A kind of cost of one image, the less the better.

    ``name`` is what objectives, budgets and ratios call it, ``metric`` its rows in the long table, which count
    ``counts`` (parameters, seconds); a budget counts the same. ``title`` is what a person calls it, ``least`` says that
    there is little of it. Shown are ``scale`` times the numbers of the table, in ``unit`` ("" where that is the title
    itself): a ``count`` as a whole number, a ``measure`` to three digits. Values that differ by no more than the share
    ``alike`` are the same for a choice. ``field`` is how a page asks for a budget, ``probe`` what measures the cost.
    """

    name: str
    metric: str
    title: str
    least: str
    counts: str
    unit: str
    scale: float
    format: Literal["count", "measure"]
    field: BudgetField
    alike: float = 0.0
    probe: str = "cost"

    @property
    def heading(self) -> str:
        """Title with the unit in which it is shown: ``latency (ms)``."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def field_title(self) -> str:
        """Title of the field that asks for a budget: ``Most latency (ms)``."""
        return f"Most {self.title} ({self.field.unit})" if self.field.unit else f"Most {self.title}"

    def amount(self, value: float) -> str:
        """A number of the table as text for a person, rounded up: ``12,345 parameters``, ``1.24 ms``, ``3.1 MiB``."""
        if self.format == "count":
            return f"{math.ceil(self.scale * value):,} {self.unit or self.counts}"
        number = self.scale * value
        step = 10.0 ** (math.floor(math.log10(number)) - 2) if number > 0 else 1.0
        return f"{math.ceil(number / step - 1e-9) * step:.6g} {self.unit or self.counts}"


COSTS: dict[str, CostKind] = {
    kind.name: kind
    for kind in (
        CostKind(
            name="params",
            metric="parameters",
            title="parameters",
            least="fewest parameters",
            counts="parameters",
            unit="",
            scale=1.0,
            format="count",
            field=BudgetField("", 1.0, 1000.0, "%.0f"),
        ),
        CostKind(
            name="flops",
            metric="flops",
            title="FLOPs",
            least="fewest FLOPs",
            counts="FLOPs",
            unit="",
            scale=1.0,
            format="count",
            field=BudgetField("millions", 1e6, 1.0, "%.6g"),
        ),
        CostKind(
            name="latency",
            metric="latency_seconds",
            title="latency",
            least="lowest latency",
            counts="seconds",
            unit="ms",
            scale=1e3,
            format="measure",
            field=BudgetField("ms", 1e-3, 0.1, "%.6g"),
            alike=SAME_LATENCY,
        ),
        CostKind(
            name="memory",
            metric="memory_bytes",
            title="memory",
            least="least memory",
            counts="bytes",
            unit="MiB",
            scale=2.0**-20,
            format="measure",
            field=BudgetField("MiB", 2.0**20, 0.1, "%.6g"),
        ),
    )
}
"""All kinds of cost by name, in the order in which they are shown. Read it where it is used: entries may be added."""


def cost_metrics() -> list[str]:
    """The metrics of the long table that are costs."""
    return [kind.metric for kind in COSTS.values()]


def is_cost(metric: str) -> bool:
    """Whether a metric of the long table is a cost."""
    return metric in cost_metrics()
