"""Early exit: each sample leaves at the first stage that is sure enough of it (BranchyNet, Shallow-Deep Networks).

Teerapittayanon et al. 2016, "BranchyNet"; Kaya et al. 2019, "Shallow-Deep Networks". The network is written in
segments, a file for each exit, so that what a sample does not need is really not computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.exporting.shorter_network import ShorterNetwork, StageHead
from lwexplain.exporting.thresholds import NEVER, ExitScores, calibrated, leaving
from lwexplain.models.cost import device_of, measure_costs
from lwexplain.models.staged import StagedModel, as_tuple, features_of


class Segment(nn.Module):
    """From one exit to the next: images (N, C, H, W) in [0, 1], or the tensors of the state after depth ``start``, to
    the logits (N, K) of ``head`` and, unless it is the last one, the tensors of the state there."""

    def __init__(
        self, model: StagedModel, start: int, head: StageHead, normalisation: nn.Module | None, last: bool
    ) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.stages = nn.ModuleList(list(model.body)[start : head.depth])
        self.head = head.module
        self.last = last
        self.eval()

    def forward(self, *state: Tensor) -> Tensor | tuple[Tensor, ...]:
        now: Any = state[0] if len(state) == 1 else state
        if self.normalisation is not None:
            now = self.normalisation(now)
        for stage in self.stages:
            now = stage(now)
        logits: Tensor = self.head(features_of(now))
        return logits if self.last else (logits, *as_tuple(now))


@dataclass(frozen=True)
class Policy:
    """The exits that pay, with the confidence from which a sample leaves at each (the last one 0), the FLOPs of a
    sample up to each, and the accuracy on val that this was calibrated to."""

    heads: tuple[StageHead, ...]
    thresholds: tuple[float, ...]
    flops: tuple[int, ...]
    val_accuracy: float

    def segments(self, model: StagedModel, normalisation: nn.Module) -> list[Segment]:
        """The network in pieces, one for each exit."""
        starts = [0, *(head.depth for head in self.heads)]
        last = len(self.heads) - 1
        return [
            Segment(model, start, head, normalisation if place == 0 else None, place == last)
            for place, (start, head) in enumerate(zip(starts, self.heads, strict=False))
        ]


def calibrated_policy(
    model: StagedModel,
    heads: Sequence[StageHead],
    normalisation: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    tolerance: float,
) -> Policy:
    """Exits and thresholds for the least mean FLOPs on ``batches`` of val (images in [0, 1], labels), where accuracy
    stays within ``tolerance`` of the last head's. The modules lie on one device."""
    device = device_of(model)
    confidence: list[np.ndarray] = []
    correct: list[np.ndarray] = []
    with torch.no_grad():
        for images, labels in batches:
            state: Any = normalisation(images.to(device))
            logits, reached = [], 0
            for head in heads:
                state, reached = model.run_stages(state, reached, head.depth), head.depth
                logits.append(head.module(features_of(state)).cpu())
            probability, predicted = torch.stack(logits).softmax(-1).max(-1)
            confidence.append(probability.numpy())
            correct.append((predicted == labels).numpy())
    stages, whole = _flops(model, heads, normalisation)
    scores = ExitScores(
        np.concatenate(confidence, axis=1).astype(np.float64),
        np.concatenate(correct, axis=1),
        np.diff(stages, prepend=0).astype(np.float64),
        (whole - stages).astype(np.float64),
    )
    thresholds = calibrated(scores, tolerance)
    exits = leaving(scores.confidence, thresholds)
    right = scores.correct[exits, np.arange(len(exits))]
    kept = [place for place in range(len(heads)) if thresholds[place] < NEVER]
    costs = scores.costs(thresholds)
    return Policy(
        tuple(heads[place] for place in kept),
        tuple(float(thresholds[place]) for place in kept),
        tuple(round(costs[place]) for place in kept),
        float(right.mean()),
    )


def _flops(model: StagedModel, heads: Sequence[StageHead], normalisation: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs of one image up to each head (E,), without any head and with this one."""
    bare = [ShorterNetwork(model, StageHead(head.depth, nn.Identity(), "none"), normalisation) for head in heads]
    whole = [ShorterNetwork(model, head, normalisation) for head in heads]
    costs = np.array([cost.flops for cost in measure_costs([*bare, *whole], model.input_shape)], dtype=np.int64)
    return costs[: len(heads)], costs[len(heads) :]
