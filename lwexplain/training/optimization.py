"""Optimizers and learning-rate schedules of the recipe."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from lwexplain.config import OptimizerConfig, ScheduleConfig


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD or AdamW; biases and normalisation weights (one-dimensional) are not decayed."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in parameters:
        (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def learning_rate(config: ScheduleConfig, base: float, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of a step (from 0) of a phase: a function of the position alone, so a resumed run agrees.

    The warm-up lasts ``warmup_epochs`` or half of the epochs, whichever is shorter, so that a short training reaches
    ``base`` too.
    """
    warmup = min(config.warmup_epochs, epochs / 2) * steps_per_epoch
    if step < warmup:
        return base * (step + 1) / (warmup + 1)
    total = epochs * steps_per_epoch
    if config.name == "cosine":
        done = (step - warmup) / max(1.0, total - warmup)
        return base * 0.5 * (1 + math.cos(math.pi * done))
    if config.name == "step":
        passed = sum(step >= share * total for share in config.milestones)
        return base * config.gamma**passed
    return base
