"""What ``lwexplain list`` lists: the names of the registries, with a sentence each."""

from collections.abc import Iterator
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What ``lwexplain list`` can list."""

    datasets = "datasets"
    models = "models"
    strategies = "strategies"
    losses = "losses"
    heads = "heads"
    probes = "probes"


def lines_of_names(kind: Kind) -> Iterator[str]:
    """A line for each name, with what it stands for."""
    registry = _registry(kind)
    width = max(len(name) for name in registry.names())
    for name in registry.names():
        yield f"{name:<{width}}  {registry.summary(name)}"
    if kind is Kind.probes:
        from lwexplain.probes.engine import ALWAYS

        yield f"measured in every analysis, without being named: {', '.join(ALWAYS)}"


def _registry(kind: Kind) -> Any:
    match kind:
        case Kind.datasets:
            from lwexplain.data.dataset import DATASETS as registry
        case Kind.models:
            from lwexplain.models.build import MODELS as registry
        case Kind.strategies:
            from lwexplain.training.strategies.base import STRATEGIES as registry
        case Kind.losses:
            from lwexplain.training.losses.base import LOSSES as registry
        case Kind.heads:
            from lwexplain.models.heads.base import HEADS as registry
        case Kind.probes:
            from lwexplain.probes.base import PROBES as registry
    return registry
