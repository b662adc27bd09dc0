"""From a configuration to what is trained: the network with its heads, and the local losses."""

import torch

from lwexplain.config import Config, TrainingConfig
from lwexplain.data.dataset import DataSplits
from lwexplain.models.build import build_model
from lwexplain.models.heads.base import HEADS
from lwexplain.models.staged import StagedModel
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting
from lwexplain.training.strategies.base import STRATEGIES, Strategy


def build_strategy(recipe: TrainingConfig) -> Strategy:
    """The strategy of a recipe; raises UnknownNameError and ConfigError for names and options that do not fit."""
    strategy: Strategy = STRATEGIES.create(recipe.strategy, options=recipe.strategy_options)
    return strategy


def build_trainable(config: Config, input_shape: tuple[int, ...], num_classes: int) -> StagedModel:
    """The model of a configuration with the heads its strategy needs, initialised from the seed."""
    model = build_model(config.model, input_shape, num_classes, config.seed)
    recipe = config.training
    sites = model.sites()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        for depth in _head_depths(build_strategy(recipe), model):
            if not (model.own_tail and depth == model.depth):
                model.set_head(depth, HEADS.create(recipe.head, sites[depth - 1], options=recipe.head_options))
    return model


def build_losses(config: Config, model: StagedModel, data: DataSplits) -> dict[int, LocalLoss]:
    """The loss at every depth that has a head in training, parameters initialised from the seed."""
    recipe = config.training
    losses = {}
    sites = model.sites()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 2)
        for depth in _head_depths(build_strategy(recipe), model):
            setting = LossSetting(sites[depth - 1], recipe.label_smoothing, tuple(data.mean), tuple(data.std))
            losses[depth] = LOSSES.create(recipe.loss, setting, options=recipe.loss_options)
    return losses


def _head_depths(strategy: Strategy, model: StagedModel) -> list[int]:
    return sorted({depth for phase in strategy.phases(model) for depth in phase.heads})
