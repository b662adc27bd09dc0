"""Costs: what the network of each depth takes for one image, as ``lwexplain.costs`` lists them."""

from lwexplain.costs import COSTS, CostKind
from lwexplain.metrics import Metric

FAMILY = "cost"


def metrics() -> tuple[Metric, ...]:
    """The declarations of all kinds of cost there are now."""
    return tuple(Metric(kind.metric, _title(kind), "lower", FAMILY) for kind in COSTS.values())


def _title(kind: CostKind) -> str:
    """Title with what the numbers of the table count, where it does not say so itself: ``latency (seconds)``."""
    return kind.title if kind.title == kind.counts else f"{kind.title} ({kind.counts})"
