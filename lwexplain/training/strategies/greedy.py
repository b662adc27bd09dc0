"""Greedy layer-wise training: stage after stage, each through its own head on a frozen prefix.

Bengio et al. (2007); at scale: Belilovsky, Eickenberg and Oyallon (2019).
"""

from lwexplain.models.staged import StagedModel
from lwexplain.training.strategies.base import STRATEGIES, Phase, Span


@STRATEGIES.register("greedy")
class Greedy:
    """Stage after stage, the prefix frozen; ``training.epochs`` are spent on each stage."""

    def phases(self, model: StagedModel) -> list[Phase]:
        return [
            Phase(name, frozen=depth - 1, spans=(Span(depth - 1, depth, heads=(depth,)),))
            for depth, name in enumerate(model.names, start=1)
        ]
