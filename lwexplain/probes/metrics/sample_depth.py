"""Depths of samples: shares of them by the depth at which a source of predictions is right."""

from lwexplain.arguments import shortened
from lwexplain.metrics import Metric

FAMILY = "sample_depth"

ENDINGS = {
    "first_correct": Metric("first_correct", "first right here", None, FAMILY),
    "cumulative_correct": Metric("cumulative_correct", "right here or before", "higher", FAMILY),
    "right_early_wrong_late": Metric("right_early_wrong_late", "right before, wrong here", "lower", FAMILY),
}
"""What follows the name of the source (``head``, ``linear_probe``) in the name of a metric, and what it says."""


def source_and_ending(metric: str) -> tuple[str, str] | None:
    """``head`` and ``first_correct`` of ``head_first_correct``; None for what is no depth of samples."""
    for ending in ENDINGS:
        if metric.endswith(f"_{ending}"):
            return metric.removesuffix(f"_{ending}"), ending
    return None


def metric_of_source(source: str, ending: str, accuracy: Metric | None) -> Metric:
    """The declaration of a depth of samples; ``accuracy`` is that of the source, None where nobody declares one."""
    name, what = f"{source}_{ending}", ENDINGS[ending]
    if accuracy is None:
        return Metric(name, family=FAMILY)
    return Metric(name, f"{shortened(accuracy.title, 50)}: {what.title}", what.better, FAMILY)
