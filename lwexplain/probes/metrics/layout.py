"""Layouts: how true the two-dimensional pictures of the samples are to the features."""

from lwexplain.metrics import Metric

FAMILY = "layout"

UMAP = (
    Metric("trustworthiness", "UMAP trustworthiness", "higher", FAMILY),
    Metric("neighbors_kept", "UMAP neighbours kept", "higher", FAMILY),
    Metric("layout_shift", "UMAP shift of points", "lower", FAMILY),
)
PCA = (
    Metric("pca_trustworthiness", "PCA trustworthiness", "higher", FAMILY),
    Metric("pca_neighbors_kept", "PCA neighbours kept", "higher", FAMILY),
)

METRICS = (*UMAP, *PCA)
