"""Separability: how well the classes separate in the features of a stage, without a classifier."""

from lwexplain.metrics import Metric

FAMILY = "separability"

METRICS = (
    Metric("separability_index", "separability index", "higher", FAMILY),
    Metric("knn_purity", "neighbours of the own class", "higher", FAMILY),
    Metric("hypothesis_margin", "hypothesis margin", "higher", FAMILY),
    Metric("silhouette", "silhouette", "higher", FAMILY),
    Metric("dsi", "distance separability (DSI)", "higher", FAMILY),
    Metric("gdv", "discrimination value (GDV)", "lower", FAMILY),
    Metric("fisher_ratio", "Fisher ratio", "higher", FAMILY),
    Metric("separation_law", "separation law", "lower", FAMILY),
    Metric("davies_bouldin", "Davies-Bouldin", "lower", FAMILY),
    Metric("calinski_harabasz", "Calinski-Harabasz", "higher", FAMILY),
)
