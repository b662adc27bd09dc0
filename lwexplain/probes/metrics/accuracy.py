"""Accuracies: the shares of samples that a classifier on a stage gets right."""

from lwexplain.arguments import shortened
from lwexplain.metrics import Metric, balanced_metric

FAMILY = "accuracy"

HEAD = (Metric("head_accuracy", "trained head", "higher", FAMILY),)
LINEAR_PROBE = (Metric("linear_probe_accuracy", "linear probe", "higher", FAMILY),)
MLP_PROBE = (Metric("mlp_probe_accuracy", "MLP probe", "higher", FAMILY),)
NEAREST_NEIGHBOURS = (Metric("knn_accuracy", "nearest neighbours", "higher", FAMILY),)
NEAREST_CLASS_MEAN = (Metric("ncm_accuracy", "nearest class mean", "higher", FAMILY),)

METRICS = (*HEAD, *LINEAR_PROBE, *MLP_PROBE, *NEAREST_NEIGHBOURS, *NEAREST_CLASS_MEAN)


def balanced(accuracy: Metric) -> Metric:
    """The declaration of the balanced accuracy that stands beside an accuracy."""
    return Metric(balanced_metric(accuracy.name), f"{shortened(accuracy.title, 60)}, balanced", "higher", FAMILY)
