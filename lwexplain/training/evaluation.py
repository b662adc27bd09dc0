"""Loss and predictions of some heads on one split, in one forward pass a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lwexplain.data.batches import Batches
from lwexplain.models.staged import StagedModel, State
from lwexplain.training.losses import LocalLoss
from lwexplain.training.strategy import loss_at


@dataclass
class HeadResult:
    """One head on one split: mean ``loss``, ``accuracy`` in [0, 1] and ``correct`` (N,) bool, in split order."""

    loss: float
    accuracy: float
    correct: Tensor


def evaluate(
    model: StagedModel, depths: Sequence[int], batches: Batches, loss: LocalLoss, autocast: torch.autocast
) -> dict[int, HeadResult]:
    """Evaluate the heads at ``depths`` (ascending); the model is put back into the mode it was in."""
    was_training = model.training
    model.eval()
    sums = torch.zeros(len(depths), dtype=torch.float64)
    correct: list[list[Tensor]] = [[] for _ in depths]
    order = []
    with torch.inference_mode(), autocast:
        for images, labels, index in batches.epoch():
            state: State = images
            reached = 0
            for row, depth in enumerate(depths):
                state, reached = model.run_stages(state, reached, depth), depth
                result = loss_at(model, depth, state, images, labels, loss)
                sums[row] += result.value.double().cpu() * len(labels)
                correct[row].append((result.logits.argmax(1) == labels).cpu())
            order.append(index)
    model.train(was_training)
    positions = torch.cat(order)
    results = {}
    for row, depth in enumerate(depths):
        hits = torch.zeros(len(positions), dtype=torch.bool)
        hits[positions] = torch.cat(correct[row])
        results[depth] = HeadResult(float(sums[row] / len(positions)), float(hits.double().mean()), hits)
    return results
