"""Neural collapse: how near the classes have come to single points that form a simplex."""

from lwexplain.metrics import Metric

FAMILY = "collapse"

METRICS = (
    Metric("nc1", "NC1 within-class spread", "lower", FAMILY),
    Metric("nc2", "NC2 distance to simplex", "lower", FAMILY),
    Metric("nc2_equinorm", "NC2 unequal lengths", "lower", FAMILY),
    Metric("nc2_equiangularity", "NC2 unequal angles", "lower", FAMILY),
    Metric("nc2_maximal_angle", "NC2 short of widest angle", "lower", FAMILY),
    Metric("nc3", "NC3 head-mean mismatch", "lower", FAMILY),
    Metric("nc4", "NC4 nearest-mean mismatch", "lower", FAMILY),
)
