"""What a training strategy is: which heads it needs, which phases it has, and the losses of one step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from lwexplain.models.staged import StagedModel, State, features_of
from lwexplain.registry import Registry
from lwexplain.training.losses import LocalLoss

STRATEGIES = Registry("strategy", "lwexplain.training", group="lwexplain.strategies")


@dataclass(frozen=True)
class Phase:
    """A span of training with its own optimizer and learning-rate schedule.

    ``frozen`` stages from the start stay as they are, those up to ``depth`` learn; ``heads`` are the depths whose
    heads learn and are evaluated.
    """

    name: str
    frozen: int
    depth: int
    heads: tuple[int, ...]


class LossAt(NamedTuple):
    """One loss of a step, with the head's depth and logits (N, K)."""

    depth: int
    value: Tensor
    logits: Tensor


class Strategy(Protocol):
    """How the stages are trained. A strategy decides where gradients flow; the loop does everything else."""

    def head_depths(self, model: StagedModel) -> list[int]:
        """Depths that need a head."""
        ...

    def phases(self, model: StagedModel) -> list[Phase]:
        """The spans of training, in order."""
        ...

    def losses(
        self, model: StagedModel, phase: Phase, images: Tensor, labels: Tensor, loss: LocalLoss
    ) -> Iterator[LossAt]:
        """The losses of one step. The loop calls ``backward`` on each before it asks for the next, so the graph of
        one stage is freed before the next stage runs."""
        ...


def loss_at(model: StagedModel, depth: int, state: State, images: Tensor, labels: Tensor, loss: LocalLoss) -> LossAt:
    """The loss of the head at ``depth`` on the state after that stage."""
    logits = model.classify(state, depth)
    return LossAt(depth, loss(logits, labels, features_of(state), images), logits)
