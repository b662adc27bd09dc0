"""The declaration of any metric: of the probe that gave it, built in, or one that follows from another's."""

from collections.abc import Iterable, Mapping

from lwexplain.metrics import Metric, is_balanced
from lwexplain.probes.metrics import (
    accuracy,
    attribution,
    collapse,
    cost,
    geometry,
    layout,
    sample_depth,
    separability,
    similarity,
)

BUILT_IN = {
    metric.name: metric
    for family in (accuracy, separability, collapse, geometry, layout, similarity)
    for metric in family.METRICS
}
"""The metrics of lwexplain's own probes by name, in the order in which they are shown, without the costs."""


def find_metric(name: str, declared: Mapping[str, Metric] | None = None) -> Metric | None:
    """The declaration of the metric ``name``: that in ``declared``, else the built-in one; None where nobody has one.

    A balanced accuracy and the depths of samples follow from the accuracy that they stand beside, and the figures of
    an attribution method are known by the ends of their names.
    """
    declared = declared or {}
    known = declared.get(name) or BUILT_IN.get(name)
    known = known or next((metric for metric in cost.metrics() if metric.name == name), None)
    if known is not None:
        return known
    if is_balanced(name):
        beside = f"{name.removesuffix('_balanced_accuracy')}_accuracy"
        return accuracy.balanced(find_metric(beside, declared) or Metric(beside))
    if (parts := sample_depth.source_and_ending(name)) is not None:
        source, ending = parts
        return sample_depth.metric_of_source(source, ending, find_metric(f"{source}_accuracy", declared))
    return attribution.metric_of_ending(name)


def find_metrics(names: Iterable[str], declared: Mapping[str, Metric]) -> dict[str, Metric]:
    """The declarations of those of ``names`` that have one: built-in ones first, then others as they are declared."""
    places = {name: place for place, name in enumerate(dict.fromkeys([*BUILT_IN, *declared]))}
    ordered = sorted(dict.fromkeys(names), key=lambda name: places.get(name, len(places)))
    found = ((name, find_metric(name, declared)) for name in ordered)
    return {name: metric for name, metric in found if metric is not None}
