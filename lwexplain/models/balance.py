"""Merge neighbouring stages into fewer ones of about equal depth, parameters or activation memory."""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.activations import ActivationMeter
from lwexplain.models.modules import undisturbed
from lwexplain.models.staged import StagedModel, State

IMAGES = 2
"""Images in the pass that measures activations: batch norm does not train on one image of 1x1 features."""


def balance_stages(model: StagedModel, count: int, by: str) -> StagedModel:
    """A newly built ``model`` in ``count`` stages: its own, neighbours merged, the costliest as cheap as can be.

    The cost of a stage is 1 (``depth``), its number of ``parameters``, or the bytes of ``activations`` that it keeps
    for the backward pass; ``partition`` says which stages are merged. A merged stage is an ``nn.Sequential`` of its
    members, the very modules of ``model``, under the name of the last one, as stages are named by where they end.
    Heads where a merged stage ends stay, the model's own tail among them.

    Raises ModelError where ``count`` is below 1 or above the number of stages.
    """
    if not 1 <= count <= model.depth:
        raise ModelError(
            f"model.stages={count}, but the model is cut into {model.depth} stages; set a number from 1 to "
            f"{model.depth}, or cut the model finer (model.units, model.options.stages)"
        )
    ends = partition(stage_costs(model, by), count)
    stages: dict[str, nn.Module] = {}
    for start, end in pairwise([0, *ends]):
        members = list(model.body[start:end])
        stages[model.names[end - 1]] = members[0] if len(members) == 1 else nn.Sequential(*members)
    merged = StagedModel(stages, model.input_shape, model.num_classes)
    for depth, end in enumerate(ends, start=1):
        if end in model.head_depths:
            merged.set_head(depth, model.head(end))
    merged.own_tail = model.own_tail
    return merged.train(model.training)


def partition(costs: Sequence[int], count: int) -> list[int]:
    """Ends (ascending, the last one ``len(costs)``) of ``count`` runs of neighbours, none of them empty.

    The largest cost of a run is as small as can be. Among the partitions that reach it the sum of squares decides, so
    that the other runs are even, too; where that leaves several, earlier runs are the shorter ones. Exact, by dynamic
    programming in O(count * len(costs)**2).
    """
    total = len(costs)
    sums = [0, *accumulate(costs)]
    runs = [[(sums[end] - sums[start], end) for end in range(start + 1, total + 1)] for start in range(total + 1)]

    largest: list[float] = [math.inf] * total + [0]  # smallest largest cost of the positions from ``start`` on
    for _ in range(count):
        largest = [min((max(cost, largest[end]) for cost, end in run), default=math.inf) for run in runs]
    limit = largest[0]

    best: list[tuple[float, list[int]]] = [(math.inf, [])] * total + [(0, [])]  # sum of squares, ends
    for _ in range(count):
        best = [
            min(
                ((cost**2 + best[end][0], [end, *best[end][1]]) for cost, end in run if cost <= limit),
                default=(math.inf, []),
            )
            for run in runs
        ]
    return best[0][1]


def stage_costs(model: StagedModel, by: str) -> list[int]:
    """Cost of each stage; raises ModelError where ``by`` is none of depth, parameters and activations."""
    if by == "depth":
        return [1] * model.depth
    if by == "parameters":
        return [sum(parameter.numel() for parameter in stage.parameters()) for stage in model.body]
    if by == "activations":
        return activation_bytes(model)
    raise ModelError(f"model.balance={by!r} is unknown; known: depth, parameters, activations")


def activation_bytes(model: StagedModel) -> list[int]:
    """Bytes that each stage adds to those kept for the backward pass of two images, in training mode.

    Found by one forward pass of noise, which leaves the model and the global random state as they were. Raises
    ModelError where a stage cannot take the images.
    """
    parameter = next(model.parameters(), torch.empty(0))
    kept = [0]
    with undisturbed(model), torch.enable_grad():
        state: State = torch.randn(IMAGES, *model.input_shape, device=parameter.device, dtype=parameter.dtype)
        model.train()
        with ActivationMeter() as meter:
            for name, stage in zip(model.names, model.body, strict=True):
                try:
                    state = stage(state)
                except (RuntimeError, ValueError) as error:
                    raise ModelError(
                        f"stage {name!r} cannot train on images of shape {model.input_shape}: {error}"
                    ) from None
                kept.append(meter.live_bytes)
    return [max(0, after - before) for before, after in pairwise(kept)]
