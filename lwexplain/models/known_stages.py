"""Where networks of torchvision and timm are cut by default: the same modules for good, so that a run stays readable.

A run's configuration names the architecture, and its weights are filed by stage; a network that is cut elsewhere would
not fit them. Architectures without an entry here are cut where ``find_stages`` finds their blocks.
"""

import re

from torch import nn

BLOCKS = {
    "resnet": r"(relu|maxpool)|layer\d+\.\d+",
    "resnext": r"(relu|maxpool)|layer\d+\.\d+",
    "wide_resnet": r"(relu|maxpool)|layer\d+\.\d+",
    "vgg": r"features\.\d+",
    "mobilenet": r"features\.\d+",
    "efficientnet": r"features\.\d+",
    "convnext": r"features\.\d+",
    "vit": r"encoder\.layers\.encoder_layer_\d+",
}
"""Modules after which families of torchvision are cut; VGG at its activations only."""


def torchvision_stages(model: nn.Module, arch: str) -> list[str]:
    """Names of the modules that end a stage; empty for an architecture of another family."""
    family = next((key for key in sorted(BLOCKS, key=len, reverse=True) if arch.startswith(key)), None)
    if family is None:
        return []
    modules = dict(model.named_modules())
    found = [name for name in modules if re.fullmatch(BLOCKS[family], name)]
    if family == "vgg":
        found = [name for name in found if isinstance(modules[name], nn.ReLU)]
    if "maxpool" in found and "relu" in found:
        found.remove("relu")
    return found


def timm_stages(model: nn.Module) -> list[str]:
    """The modules of timm's own ``feature_info``; empty where it does not name two that are there."""
    known = dict(model.named_modules())
    listed = getattr(model, "feature_info", None)
    named = [str(info["module"]) for info in listed or () if isinstance(info, dict) and info.get("module")]
    return named if len(named) > 1 and all(name in known for name in named) else []
