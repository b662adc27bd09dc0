"""VGG-11 with batch normalisation (Simonyan and Zisserman 2015), without its fully connected layers."""

from torch import nn

from lwexplain.models.build import MODELS
from lwexplain.models.staged import StagedModel

GROUPS = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of each convolution as multiples of the width; a 2x2 max pool ends each group."""


@MODELS.register("vgg11")
def vgg11(
    input_shape: tuple[int, int, int], num_classes: int, *, width: int | None = None, units: str = "block"
) -> StagedModel:
    """VGG-11 with batch norm: eight 3x3 convolutions in five groups, any image size.

    ``units``: ``block`` and ``layer`` = one convolution, ``group`` = all convolutions before a pool. The pool belongs
    to the last stage of its group; it rounds sizes up, so that small images survive all five.
    """
    base = width or 64
    stages: dict[str, nn.Module] = {}
    inputs = input_shape[0]
    for group, factors in enumerate(GROUPS, start=1):
        members = []
        for index, factor in enumerate(factors):
            outputs = base * factor
            layers = [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            if index == len(factors) - 1:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            members.append(nn.Sequential(*layers))
            inputs = outputs
        if units == "group":
            stages[f"group{group}"] = nn.Sequential(*members)
        else:
            stages.update({f"group{group}.conv{index}": member for index, member in enumerate(members, start=1)})
    return StagedModel(stages, input_shape, num_classes, in_order=True)
