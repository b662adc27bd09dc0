"""Global back-propagation: one loss at the end, gradients through all stages."""

from collections.abc import Iterator

from torch import Tensor

from lwexplain.models.staged import StagedModel
from lwexplain.training.losses import LocalLoss
from lwexplain.training.strategy import STRATEGIES, LossAt, Phase, loss_at


@STRATEGIES.register("bp")
class BackPropagation:
    """Global back-propagation from one head at the full depth."""

    def head_depths(self, model: StagedModel) -> list[int]:
        return [model.depth]

    def phases(self, model: StagedModel) -> list[Phase]:
        return [Phase("all stages", frozen=0, depth=model.depth, heads=(model.depth,))]

    def losses(
        self, model: StagedModel, phase: Phase, images: Tensor, labels: Tensor, loss: LocalLoss
    ) -> Iterator[LossAt]:
        state = model.run_stages(images, 0, model.depth)
        yield loss_at(model, model.depth, state, images, labels, loss)
