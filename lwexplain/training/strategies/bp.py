"""Global back-propagation: one loss at the end, gradients through all stages."""

from lwexplain.models.staged import StagedModel
from lwexplain.training.strategies.base import STRATEGIES, Phase, Span


@STRATEGIES.register("bp")
class BackPropagation:
    """Global back-propagation from one head at the full depth."""

    def phases(self, model: StagedModel) -> list[Phase]:
        return [Phase("all stages", frozen=0, spans=(Span(0, model.depth, heads=(model.depth,)),))]
