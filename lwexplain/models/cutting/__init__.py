"""Networks cut after named modules, whether or not their code can be traced."""

from lwexplain.models.cutting.cut import cut_network
from lwexplain.models.cutting.network import CutNetwork

__all__ = ["CutNetwork", "cut_network"]
