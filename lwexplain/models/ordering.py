"""Stages that have their channels last, made to give their features as all others do."""

import torch
from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.layout import Layout, layouts_of
from lwexplain.models.modules import as_parameters, in_evaluation
from lwexplain.models.staged import StagedModel, State, features_of


def in_channel_order(model: StagedModel) -> StagedModel:
    """The same network, whose stages give (N, C, H, W) or (N, T, D), whatever order its own modules work in.

    Stages and heads around features in another order are wrapped, and see the order that they were made for. The model
    itself comes back where all is in order, or where it cannot take its images (which ``feature_shapes`` says).
    """
    if model.in_order:
        return model
    layouts = stage_layouts(model)
    if not any(layout.order for layout in layouts):
        model.in_order = True
        return model
    before = [Layout(), *layouts[:-1]]
    stages = {
        name: _Reordered(stage, given, made) if given.order or made.order else stage
        for name, stage, given, made in zip(model.names, model.body, before, layouts, strict=True)
    }
    ordered = StagedModel(stages, model.input_shape, model.num_classes)
    ordered.own_tail, ordered.frozen_depth = model.own_tail, model.frozen_depth
    for depth in model.head_depths:
        head, layout = model.head(depth), layouts[depth - 1]
        ordered.set_head(depth, _Reordered(head, layout, Layout()) if layout.order else head)
    ordered.in_order = True
    if not model.own_tail:
        ordered.read_tokens_as(model)
    own = {id(part) for part in model.modules()}
    for part in ordered.modules():
        if id(part) not in own:
            part.training = model.training
    return ordered


def stage_layouts(model: StagedModel) -> list[Layout]:
    """How the features of each stage lie; as all others do where the model cannot take its images."""
    parameter = next(model.parameters(), None)
    image = torch.zeros(1, *model.input_shape, device=None if parameter is None else parameter.device)
    modules = dict(zip(model.names, model.body, strict=True))
    with in_evaluation(model):
        try:
            image = as_parameters(image, model)
            found = layouts_of(lambda x: model.run_stages(x, 0, model.depth), modules, image, within=model)
        except ModelError:
            raise
        except Exception:
            return [Layout()] * model.depth
    return [found[id(stage), 1] for stage in model.body]


class _Reordered(nn.Module):
    """A stage or head that works in the order of ``before`` and leaves its features in that of ``after``, given and
    giving features in the usual one."""

    def __init__(self, stage: nn.Module, before: Layout, after: Layout) -> None:
        super().__init__()
        self.stage, self.before, self.after = stage, before, after

    def forward(self, state: State) -> State:
        state = self.stage(_with_features(state, self.before.as_given(features_of(state))))
        return _with_features(state, self.after.in_order(features_of(state)))


def _with_features(state: State, features: Tensor) -> State:
    return (features, *state[1:]) if isinstance(state, tuple) else features
