"""Which pixels a prediction rests on: Captum's methods through a stage and its head or through any module, each with
its quality."""

from lwexplain.probes.attribution.base import Explanation, Method, Network
from lwexplain.probes.attribution.loader import AttributionBatch, attribute, attribute_batches
from lwexplain.probes.attribution.methods import DEFAULT_METHODS, METHODS
from lwexplain.probes.attribution.probe import CHECKS, AttributionMaps

__all__ = [
    "CHECKS",
    "DEFAULT_METHODS",
    "METHODS",
    "AttributionBatch",
    "AttributionMaps",
    "Explanation",
    "Method",
    "Network",
    "attribute",
    "attribute_batches",
]
