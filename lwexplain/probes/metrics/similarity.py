"""Similarity: how alike two stages see the same samples; neither direction is better."""

from lwexplain.metrics import SIMILARITY, Metric

METRICS = (Metric("cka_linear", "linear CKA", family=SIMILARITY), Metric("cka_rbf", "RBF CKA", family=SIMILARITY))
