"""Decoupled greedy learning: all stages at once, each from its own local loss (Belilovsky et al. 2020)."""

from collections.abc import Iterator

from torch import Tensor

from lwexplain.models.staged import StagedModel, State, detach
from lwexplain.training.losses import LocalLoss
from lwexplain.training.strategy import STRATEGIES, LossAt, Phase, loss_at


@STRATEGIES.register("decoupled")
class Decoupled:
    """All stages at once, gradients cut between them."""

    def head_depths(self, model: StagedModel) -> list[int]:
        return list(range(1, model.depth + 1))

    def phases(self, model: StagedModel) -> list[Phase]:
        depths = tuple(range(1, model.depth + 1))
        return [Phase("all stages", frozen=0, depth=model.depth, heads=depths)]

    def losses(
        self, model: StagedModel, phase: Phase, images: Tensor, labels: Tensor, loss: LocalLoss
    ) -> Iterator[LossAt]:
        state: State = images
        for depth in phase.heads:
            state = model.run_stages(detach(state), depth - 1, depth)
            yield loss_at(model, depth, state, images, labels, loss)
