"""Networks of torchvision and timm, cut into stages by module names."""

import contextlib
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lwexplain.arguments import shown
from lwexplain.config import is_weight_file
from lwexplain.errors import ModelError, UserCodeError
from lwexplain.models.build import MODELS
from lwexplain.models.find_stages import find_stages
from lwexplain.models.known_stages import timm_stages, torchvision_stages
from lwexplain.models.pretrained import load_pretrained, require_weight_file
from lwexplain.models.staged import StagedModel
from lwexplain.models.wrap import stage_by_names

PRETRAINED_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False},
    "inception_v3": {"transform_input": True},
}
"""What torchvision sets by itself where it builds these with pretrained weights."""

FROM_FILE = "; where weights cannot be fetched, give them as a file: model.options.weights=FILE"

BUILT_IN = re.compile(r"[A-Za-z0-9_.]{1,100}")
"""A network that timm holds itself; others (``hf-hub:``, ``local-dir:``) are read from elsewhere."""


def staged_by_default(
    model: nn.Module,
    stages: Sequence[str] | None,
    known: Sequence[str],
    input_shape: tuple[int, int, int],
    num_classes: int,
) -> StagedModel:
    """The model cut at ``stages``, else at those that are ``known`` of it, else where ``find_stages`` finds some for
    images of this shape."""
    if stages:
        return stage_by_names(model, stages, input_shape, num_classes)
    if known:
        with contextlib.suppress(ModelError):  # said of the stages that are found, where those do not serve either
            return stage_by_names(model, known, input_shape, num_classes)
    image = torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        found = find_stages(model, image)
    except UserCodeError as error:
        raise ModelError(
            f"{error}; give images of another size or number of channels (data.image_size, data.channels)"
        ) from None
    return stage_by_names(model, found, input_shape, num_classes)


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

    ``weights`` names pretrained weights that are fetched (``DEFAULT``), or is a file of weights. Their classifier is
    replaced where the number of classes differs; ``like_pretrained`` builds the same network as with fetched ones
    without fetching them. Further options go to torchvision's builder.
    """
    import torchvision.models
    from torchvision.models import get_model, list_models

    if arch not in list_models(module=torchvision.models):  # others fetch weights of their own accord
        raise ModelError(f"torchvision has no model {shown(arch)}; see torchvision.models.list_models()")
    _refuse_width(width, units, "torchvision")
    sizes = {"vit": ("image_size", input_shape[-1]), "maxvit": ("input_size", input_shape[1:])}
    if (option := sizes.get(arch.partition("_")[0])) is not None:
        builder_options.setdefault(*option)
    from_file = is_weight_file(weights)
    if arch in PRETRAINED_OPTIONS and (weights is None or from_file) and not like_pretrained:  # no exits at the side
        builder_options = {"aux_logits": False, "init_weights": True} | builder_options
    try:
        if weights is None and like_pretrained:
            model = get_model(arch, weights=None, **PRETRAINED_OPTIONS.get(arch, {}) | builder_options)
            _replace_classifier(model, num_classes)
        elif weights is None:
            model = get_model(arch, weights=None, num_classes=num_classes, **builder_options)
        elif weights is not None and from_file:
            model = load_pretrained(
                lambda classes: get_model(arch, weights=None, num_classes=classes, **builder_options),
                weights,
                num_classes,
            )
        else:
            model = get_model(arch, weights=weights, **builder_options)
            _replace_classifier(model, num_classes)
    except (OSError, ValueError, TypeError, KeyError) as error:
        unreachable = weights is not None and not from_file and isinstance(error, OSError)
        raise ModelError(f"torchvision cannot build {arch!r}: {error}{FROM_FILE * unreachable}") from None
    return staged_by_default(model, stages, torchvision_stages(model, arch), input_shape, num_classes)


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
    weights: str | None = None,
    **builder_options: Any,
) -> StagedModel:
    """A classifier of timm (``arch``), cut at ``stages`` or where its own ``feature_info`` says, else at its blocks.

    ``pretrained`` fetches timm's own weights, ``weights`` is a file of some, whose classifier is replaced where the
    number of classes differs.
    """
    try:
        import timm
    except ImportError:
        raise ModelError("models of timm need an extra: pip install 'lwexplain[models]'") from None
    _refuse_width(width, units, "timm")
    if not isinstance(arch, str) or not BUILT_IN.fullmatch(arch):
        raise ModelError(f"timm holds no network {shown(arch)}; name one of timm.list_models()")
    if weights is not None:
        require_weight_file(weights, "; weights that timm fetches come by model.options.pretrained=true")
        if pretrained:
            raise ModelError("model.options.weights and model.options.pretrained are both set; choose one of them")

    def build(classes: int) -> nn.Module:
        given: dict[str, Any] = {"pretrained": pretrained, "num_classes": classes, "in_chans": input_shape[0]}
        try:
            return timm.create_model(arch, **given, **{"img_size": input_shape[1:], **builder_options})
        except TypeError as error:
            if "img_size" in builder_options or "img_size" not in str(error):
                raise
            return timm.create_model(arch, **given, **builder_options)  # one that takes images of any size

    try:
        model = build(num_classes) if weights is None else load_pretrained(build, weights, num_classes)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(f"timm cannot build {arch!r}: {error}{FROM_FILE * bool(pretrained)}") from None
    return staged_by_default(model, stages, timm_stages(model), input_shape, num_classes)


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
