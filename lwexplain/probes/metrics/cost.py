"""Costs: what the network of each depth takes for one image."""

from lwexplain.metrics import Metric

FAMILY = "cost"

METRICS = (
    Metric("parameters", "parameters", "lower", FAMILY),
    Metric("flops", "FLOPs", "lower", FAMILY),
    Metric("latency_seconds", "latency (s)", "lower", FAMILY),
    Metric("memory_bytes", "memory (bytes)", "lower", FAMILY),
)
