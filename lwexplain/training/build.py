"""From a configuration to what is trained: the network with its heads and the local losses, checked and placed."""

from collections.abc import Mapping, Sequence

import torch

from lwexplain.config import Config, TrainingConfig
from lwexplain.data.dataset import DataSplits
from lwexplain.devices import pick_device, place
from lwexplain.errors import ModelError, TrainingError
from lwexplain.models.build import MODELS, build_model
from lwexplain.models.heads.base import HEADS
from lwexplain.models.modules import as_parameters, undisturbed
from lwexplain.models.staged import StagedModel, State
from lwexplain.processes import World
from lwexplain.stored_config import WEIGHT_SOURCES
from lwexplain.training.distributed import synchronise_batch_norm
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting
from lwexplain.training.strategies.base import STRATEGIES, Phase, Strategy, phases_from


def check_recipe(recipe: TrainingConfig, batch: int, world: World) -> None:
    """Raise TrainingError where a recipe contradicts itself or cannot share ``batch`` images among the processes."""
    parts = recipe.accumulate * world.size
    if recipe.stop == "auto" and recipe.strategy != "greedy":
        raise TrainingError("training.stop=auto needs training.strategy=greedy: only there stages come one by one")
    if batch % world.size:
        raise TrainingError(
            f"{batch} images in a batch cannot be shared evenly by {world.size} processes; "
            f"set data.batch_size to a multiple of {world.size}"
        )
    if batch < parts:
        raise TrainingError(
            f"{batch} images in a batch cannot be divided into {parts} parts; "
            "set a larger data.batch_size or a smaller training.accumulate"
        )


def check_smallest_part(model: StagedModel, recipe: TrainingConfig, batch: int, world: World) -> None:
    """Raise TrainingError where the smallest part of a batch is too small for a normalisation of the model.

    Batch normalisation needs two values of each channel: one image will do where its features are larger than 1 x 1,
    and where there is none. Found by a training pass of so many images, which leaves the model as it was.
    """
    parts = recipe.accumulate * world.size
    images = min(2, batch // parts)
    parameter = next(model.parameters(), torch.empty(0))
    with undisturbed(model), torch.no_grad():
        model.train()
        state: State = as_parameters(torch.randn(images, *model.input_shape, device=parameter.device), model)
        for depth, (name, stage) in enumerate(model.stages.items(), start=1):
            try:
                state = stage(state)
                if depth in model.head_depths:
                    model.classify(state, depth)
            except ValueError as error:
                if "Expected more than 1" not in str(error):
                    raise
                asked = "one image" if images == 1 else "two images"
                raise TrainingError(
                    f"stage {name!r} or its head cannot normalise the features of {asked} ({error}): {batch} in a "
                    f"batch, in {parts} part{'s' * (parts > 1)}, are too few; set a larger data.batch_size or a "
                    "smaller training.accumulate, take larger images, or choose another normalisation"
                ) from None


def build_strategy(recipe: TrainingConfig) -> Strategy:
    """The strategy of a recipe; raises UnknownNameError and ConfigError for names and options that do not fit."""
    strategy: Strategy = STRATEGIES.create(recipe.strategy, options=recipe.strategy_options)
    return strategy


def planned_phases(recipe: TrainingConfig, model: StagedModel) -> list[Phase]:
    """The phases of a recipe's strategy, with the stages before ``training.train_from`` frozen throughout.

    Raises TrainingError where the model has no such stage.
    """
    phases = build_strategy(recipe).phases(model)
    if recipe.train_from is None:
        return phases
    try:
        first = model.depth_of(recipe.train_from)
    except ModelError as error:
        raise TrainingError(f"training.train_from: {error}") from None
    return phases_from(phases, first - 1)


def require_trained_prefix(config: Config) -> None:
    """Raise TrainingError where ``training.train_from`` would freeze stages of random weights."""
    first, options = config.training.train_from, config.model.options
    if first in (None, 1) or config.model.name in MODELS.third_party():
        return
    if not any(options.get(source) for source in WEIGHT_SOURCES):
        raise TrainingError(
            f"training.train_from={first} freezes the stages before it, and those of model {config.model.name!r} start "
            "from random weights; give pretrained ones (models torchvision and timm: model.options.weights=FILE), or "
            "leave train_from out"
        )


def build_trainable(config: Config, input_shape: tuple[int, ...], num_classes: int) -> StagedModel:
    """The model of a configuration with the heads its strategy needs, initialised from the seed."""
    model = build_model(config.model, input_shape, num_classes, config.seed)
    recipe = config.training
    sites = model.sites()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        for depth in _head_depths(recipe, model):
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
        for depth in _head_depths(recipe, model):
            setting = LossSetting(sites[depth - 1], recipe.label_smoothing, tuple(data.mean), tuple(data.std))
            losses[depth] = LOSSES.create(recipe.loss, setting, options=recipe.loss_options)
            losses[depth].label_smoothing = recipe.label_smoothing
    return losses


def place_modules(
    recipe: TrainingConfig,
    model: StagedModel,
    losses: Mapping[int, LocalLoss],
    phases: Sequence[Phase],
    device: torch.device,
    world: World,
) -> None:
    """Model and losses to where they work, in the memory format; batch normalisation over all processes."""
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for module in (model, *losses.values()):
        module.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if not world.is_alone:
            synchronise_batch_norm(module, device)
    for span in (span for phase in phases for span in phase.spans):
        if span.device is not None:
            heads = [part for depth in span.heads for part in (model.head(depth), losses[depth])]
            for module in (*model.body[span.start : span.end], *heads):
                place(module, pick_device(span.device))


def _head_depths(recipe: TrainingConfig, model: StagedModel) -> list[int]:
    return sorted({depth for phase in planned_phases(recipe, model) for depth in phase.heads})
