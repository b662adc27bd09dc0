"""Attribution: the quality of the heat maps of a method."""

from lwexplain.metrics import Metric

FAMILY = "attribution"

ENDINGS = {
    "completeness_residual": Metric("completeness_residual", "completeness residual", "lower", FAMILY),
    "completeness_residual_max": Metric("completeness_residual_max", "worst residual", "lower", FAMILY),
    "incomplete_share": Metric("incomplete_share", "incomplete images", "lower", FAMILY),
    "insertion_gain": Metric("insertion_gain", "insertion gain", "higher", FAMILY),
    "deletion_gain": Metric("deletion_gain", "deletion gain", "higher", FAMILY),
    "max_sensitivity": Metric("max_sensitivity", "max-sensitivity", "lower", FAMILY),
    "randomisation_correlation": Metric("randomisation_correlation", "randomisation correlation", "lower", FAMILY),
    "randomisation_strength_correlation": Metric("randomisation_strength_correlation", "of strength", "lower", FAMILY),
    "edge_correlation": Metric("edge_correlation", "edge correlation", None, FAMILY),
    "edge_correlation_randomised": Metric("edge_correlation_randomised", "edge correlation, shuffled", None, FAMILY),
}
"""What follows the name of the method in the name of a metric, and what it says, titled as a column of the method."""


def metrics_of_method(method: str) -> tuple[Metric, ...]:
    """The declarations of all figures of a method, titled by their names."""
    return tuple(Metric(f"{method}_{ending}", better=what.better, family=FAMILY) for ending, what in ENDINGS.items())


def metric_of_ending(metric: str) -> Metric | None:
    """The declaration of a figure whatever its method is called; None for what is no quality of heat maps."""
    for ending, what in ENDINGS.items():
        if metric.endswith(f"_{ending}"):
            return Metric(metric, better=what.better, family=FAMILY)
    return None
