"""Networks of torchvision and timm, cut into stages by module names."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from lwexplain.arguments import shown
from lwexplain.errors import ModelError
from lwexplain.models.build import MODELS
from lwexplain.models.staged import StagedModel
from lwexplain.models.wrap import stage_by_names

BLOCK_PATTERNS = {
    "resnet": r"(relu|maxpool)|layer\d+\.\d+",
    "resnext": r"(relu|maxpool)|layer\d+\.\d+",
    "wide_resnet": r"(relu|maxpool)|layer\d+\.\d+",
    "vgg": r"features\.\d+",
    "mobilenet": r"features\.\d+",
    "efficientnet": r"features\.\d+",
    "convnext": r"features\.\d+",
    "vit": r"encoder\.layers\.encoder_layer_\d+",
}
"""Modules after which the families of torchvision are cut by default; VGG at its activations only."""


PRETRAINED_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False},
    "inception_v3": {"transform_input": True},
}
"""What torchvision sets by itself where it builds these with pretrained weights."""

BUILT_IN = re.compile(r"[A-Za-z0-9_.]{1,100}")
"""A network that timm holds itself; others (``hf-hub:``, ``local-dir:``) are read from elsewhere."""


def default_stages(model: nn.Module, family: str) -> list[str]:
    """Names of the modules that end a block in a torchvision model; raises ModelError for an unknown family."""
    key = next((key for key in sorted(BLOCK_PATTERNS, key=len, reverse=True) if family.startswith(key)), None)
    if key is None:
        known = ", ".join(name for name, _ in model.named_modules() if name)
        raise ModelError(f"no default stages for {family!r}; name them in model.options.stages, out of: {known}")
    modules = dict(model.named_modules())
    found = [name for name in modules if re.fullmatch(BLOCK_PATTERNS[key], name)]
    if key == "vgg":
        found = [name for name in found if isinstance(modules[name], nn.ReLU)]
    if "maxpool" in found and "relu" in found:
        found.remove("relu")
    return found


@MODELS.register("torchvision")
def torchvision_model(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    arch: str,
    width: int | None = None,
    units: str = "block",
    stages: Sequence[str] | None = None,
    weights: str | None = None,
    like_pretrained: bool = False,
    **builder_options: Any,
) -> StagedModel:
    """A classifier of torchvision (``arch``), cut at ``stages`` or at its blocks; 3-channel images.

    ``weights`` names pretrained weights (``DEFAULT``), whose classifier is then replaced where the number of classes
    differs; ``like_pretrained`` builds the same network without fetching them. Further options go to torchvision's
    builder.
    """
    import torchvision.models
    from torchvision.models import get_model, list_models

    if arch not in list_models(module=torchvision.models):  # others fetch weights of their own accord
        raise ModelError(f"torchvision has no model {shown(arch)}; see torchvision.models.list_models()")
    _refuse_width(width, units, "torchvision")
    if arch.startswith("vit") and "image_size" not in builder_options:
        builder_options["image_size"] = input_shape[-1]
    try:
        if weights is None and like_pretrained:
            model = get_model(arch, weights=None, **PRETRAINED_OPTIONS.get(arch, {}) | builder_options)
            _replace_classifier(model, num_classes)
        elif weights is None:
            model = get_model(arch, weights=None, num_classes=num_classes, **builder_options)
        else:
            model = get_model(arch, weights=weights, **builder_options)
            _replace_classifier(model, num_classes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"torchvision cannot build {arch!r}: {error}") from None
    return stage_by_names(model, stages or default_stages(model, arch), input_shape, num_classes)


@MODELS.register("timm")
def timm_model(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    arch: str,
    width: int | None = None,
    units: str = "block",
    stages: Sequence[str] | None = None,
    pretrained: bool = False,
    **builder_options: Any,
) -> StagedModel:
    """A classifier of timm (``arch``), cut at ``stages`` or where timm's own feature_info says."""
    try:
        import timm
    except ImportError:
        raise ModelError("models of timm need an extra: pip install 'lwexplain[models]'") from None
    _refuse_width(width, units, "timm")
    if not isinstance(arch, str) or not BUILT_IN.fullmatch(arch):
        raise ModelError(f"timm holds no network {shown(arch)}; name one of timm.list_models()")
    try:
        model = timm.create_model(
            arch, pretrained=pretrained, num_classes=num_classes, in_chans=input_shape[0], **builder_options
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"timm cannot build {arch!r}: {error}") from None
    if not stages:
        stages = [info["module"] for info in getattr(model, "feature_info", []) if info.get("module")]
    return stage_by_names(model, stages, input_shape, num_classes)


def _refuse_width(width: int | None, units: str, library: str) -> None:
    if width is not None or units != "block":
        raise ModelError(
            f"model.width and model.units are not for models of {library}: choose another arch, "
            "and name the stages in model.options.stages"
        )


def _replace_classifier(model: nn.Module, num_classes: int) -> None:
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError(f"{type(model).__name__} has no linear classifier to replace")
    name, module = linear[-1]
    if module.out_features != num_classes:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Linear(module.in_features, num_classes))
