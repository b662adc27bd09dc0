"""Loss and predictions of some heads on one split, in one forward pass a batch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lwexplain.models.modules import in_evaluation
from lwexplain.models.staged import StagedModel
from lwexplain.processes import World
from lwexplain.training.losses.base import LocalLoss
from lwexplain.training.prefix import PrefixBatch
from lwexplain.training.unit import head_loss


@dataclass
class HeadResult:
    """One head on one split: mean ``loss``, ``accuracy`` in [0, 1] and ``correct`` (N,) bool, in split order."""

    loss: float
    accuracy: float
    correct: Tensor


def evaluate(
    model: StagedModel,
    depths: Sequence[int],
    batches: Iterable[PrefixBatch],
    count: int,
    start: int,
    losses: Mapping[int, LocalLoss],
    autocast: torch.autocast,
    world: World,
) -> dict[int, HeadResult]:
    """Evaluate the heads at ``depths`` (ascending) on ``batches`` of states after depth ``start``.

    ``count`` is the size of the split, of which each process sees its own rows. The model and the losses are left as
    they were.
    """
    modules = [model, *(losses[depth] for depth in depths)]
    sums = torch.zeros(len(depths), dtype=torch.float64)
    hits = torch.zeros(len(depths), count, dtype=torch.int64)
    with in_evaluation(*modules), torch.inference_mode(), autocast:
        for state, labels, images, positions in batches:
            if len(labels) == 0:  # the last batch may hold fewer images than there are processes
                continue
            reached = start
            for row, depth in enumerate(depths):
                state, reached = model.run_stages(state, reached, depth), depth
                value, logits = head_loss(model.head(depth), losses[depth], state, labels, images)
                sums[row] += value.double().cpu() * len(labels)
                hits[row, positions] = (logits.argmax(1).cpu() == labels.cpu()).long()
    sums, hits = world.total(sums) / count, world.total(hits).bool()
    return {
        depth: HeadResult(float(sums[row]), float(hits[row].double().mean()), hits[row])
        for row, depth in enumerate(depths)
    }
