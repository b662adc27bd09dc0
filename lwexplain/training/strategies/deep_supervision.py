"""Deep supervision: a head at every stage, nothing detached (Lee et al. 2015, "Deeply-Supervised Nets")."""

from lwexplain.errors import ConfigError
from lwexplain.models.staged import StagedModel
from lwexplain.training.strategies.base import STRATEGIES, Phase, Span


@STRATEGIES.register("deep_supervision")
class DeepSupervision:
    """Global back-propagation from a head at every stage (Lee et al. 2015).

    The loss is that of the last head plus ``auxiliary_weight`` times the mean of the others, so that the sum does not
    grow with the number of stages. Not a local strategy: every stage learns from all heads after it.
    """

    def __init__(self, *, auxiliary_weight: float = 1.0) -> None:
        if isinstance(auxiliary_weight, bool) or not isinstance(auxiliary_weight, (int, float)) or auxiliary_weight < 0:
            raise ConfigError(f"training.strategy_options.auxiliary_weight={auxiliary_weight!r} must be 0 or more")
        self.auxiliary_weight = auxiliary_weight

    def phases(self, model: StagedModel) -> list[Phase]:
        others = model.depth - 1
        weights = (*[self.auxiliary_weight / max(1, others)] * others, 1.0)
        span = Span(0, model.depth, heads=tuple(range(1, model.depth + 1)), weights=weights)
        return [Phase("all stages", frozen=0, spans=(span,))]
