"""Similarity: how alike two stages see the same samples; neither direction is better."""

from lwexplain.metrics import Metric

FAMILY = "similarity"

METRICS = (Metric("cka_linear", "linear CKA", family=FAMILY), Metric("cka_rbf", "RBF CKA", family=FAMILY))
