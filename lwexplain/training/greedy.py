"""Greedy layer-wise training: stage after stage, each through its own head on a frozen prefix.

Bengio et al. (2007); at scale: Belilovsky, Eickenberg and Oyallon (2019).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lwexplain.models.staged import StagedModel
from lwexplain.training.losses import LocalLoss
from lwexplain.training.strategy import STRATEGIES, LossAt, Phase, loss_at


@STRATEGIES.register("greedy")
class Greedy:
    """Stage after stage, the prefix frozen; ``training.epochs`` are spent on each stage."""

    def head_depths(self, model: StagedModel) -> list[int]:
        return list(range(1, model.depth + 1))

    def phases(self, model: StagedModel) -> list[Phase]:
        return [
            Phase(name, frozen=depth - 1, depth=depth, heads=(depth,))
            for depth, name in enumerate(model.names, start=1)
        ]

    def losses(
        self, model: StagedModel, phase: Phase, images: Tensor, labels: Tensor, loss: LocalLoss
    ) -> Iterator[LossAt]:
        with torch.no_grad():
            state = model.run_stages(images, 0, phase.frozen)
        state = model.run_stages(state, phase.frozen, phase.depth)
        yield loss_at(model, phase.depth, state, images, labels, loss)
