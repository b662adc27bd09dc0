"""A plain convolutional network: the simplest thing that has a depth."""

from torch import nn

from lwexplain.models.build import MODELS
from lwexplain.models.options import check_whole_number
from lwexplain.models.staged import StagedModel


@MODELS.register("cnn")
def cnn(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    width: int | None = None,
    units: str = "block",
    depth: int = 6,
    downsample_every: int = 2,
) -> StagedModel:
    """Plain CNN: ``depth`` layers of 3x3 convolution, batch norm and ReLU.

    Every ``downsample_every`` layers the resolution halves and the channels double. ``units``: ``block`` and
    ``layer`` = one convolution, ``group`` = all convolutions of one resolution.
    """
    check_whole_number("model.options.depth", depth)
    check_whole_number("model.options.downsample_every", downsample_every)
    outputs, inputs = width or 32, input_shape[0]
    stages: dict[str, nn.Module] = {}
    groups: dict[str, list[nn.Module]] = {}
    for index in range(depth):
        stride = 1
        if index and index % downsample_every == 0:
            stride, outputs = 2, 2 * outputs
        layer = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        inputs = outputs
        stages[f"conv{index + 1}"] = layer
        groups.setdefault(f"group{index // downsample_every + 1}", []).append(layer)
    if units == "group":
        stages = {name: nn.Sequential(*members) for name, members in groups.items()}
    return StagedModel(stages, input_shape, num_classes, in_order=True)
