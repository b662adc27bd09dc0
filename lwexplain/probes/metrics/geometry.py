"""Geometry: how many directions the features use, and how much of the image they see; neither direction is better."""

from lwexplain.metrics import Metric

FAMILY = "geometry"

OF_FEATURES = (
    Metric("effective_rank", "effective rank", family=FAMILY),
    Metric("participation_ratio", "participation ratio", family=FAMILY),
    Metric("saturation", "saturation", family=FAMILY),
    Metric("intrinsic_dimension", "intrinsic dimension", family=FAMILY),
)
OF_RECEPTIVE_FIELDS = (
    Metric("receptive_field", "receptive field (pixels)", family=FAMILY),
    Metric("receptive_field_shortest", "receptive field, shortest path", family=FAMILY),
    Metric("beyond_border", "beyond the border (1 = yes)", family=FAMILY),
)

METRICS = (*OF_FEATURES, *OF_RECEPTIVE_FIELDS)
