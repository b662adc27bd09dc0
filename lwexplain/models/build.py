"""Build a model from its configuration, always with the same weights for the same seed."""

from collections.abc import Sequence

import torch

from lwexplain.config import ModelConfig
from lwexplain.errors import ModelError
from lwexplain.models.balance import balance_stages
from lwexplain.models.ordering import in_channel_order
from lwexplain.models.staged import StagedModel
from lwexplain.registry import Registry

MODELS = Registry("model", "lwexplain.models", group="lwexplain.models", options_key="model.options")
"""Factories ``(input_shape, num_classes, *, width, units, **options) -> StagedModel``."""


def build_model(config: ModelConfig, input_shape: Sequence[int], num_classes: int, seed: int) -> StagedModel:
    """The model of ``config`` for images (C, H, W); leaves the global random state as it was.

    Raises UnknownNameError for an unknown model or option, ConfigError and ModelError for options that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS.create(
            config.name,
            tuple(input_shape),
            num_classes,
            width=config.width,
            units=config.units,
            options=config.options,
        )
    if not isinstance(model, StagedModel):
        raise ModelError(f"model {config.name!r} made a {type(model).__name__}, expected a StagedModel")
    model = in_channel_order(model)
    if config.stages is not None:
        model = balance_stages(model, config.stages, config.balance)
    return model if config.depth is None else first_stages(model, config.depth)


def first_stages(model: StagedModel, depth: int) -> StagedModel:
    """The first ``depth`` stages of a newly built model, without a head unless that is all of it.

    Raises ModelError where the model has fewer stages.
    """
    if depth > model.depth:
        raise ModelError(f"model.depth={depth}, but the model has {model.depth} stages: {', '.join(model.names)}")
    if depth == model.depth:
        return model
    short = StagedModel(dict(list(model.stages.items())[:depth]), model.input_shape, model.num_classes)
    short.read_tokens_as(model)
    return short
