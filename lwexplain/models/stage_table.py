"""The stages of a network as a table, before anything is run on data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lwexplain.arguments import shown
from lwexplain.errors import CaptureError
from lwexplain.models import find_stages as finding
from lwexplain.models.describe_stages import describe_stages
from lwexplain.models.foreign import check_model
from lwexplain.models.modules import unwrap

if TYPE_CHECKING:
    import pandas as pd


def find_stages(
    model: nn.Module, image_shape: Sequence[int] = (3, 224, 224), stages: str | Sequence[str] = "auto"
) -> "pd.DataFrame":
    """The stages at which a network can be looked into and cut, with their sizes, before anything is run on data.

    One random image is watched on its way through the network. Stages are its blocks, such as the residual blocks of a
    ResNet or the layers of a transformer; a network without blocks is cut at its activations. The network is left as it
    was.

    Args:
        model: Any network that takes images.
        image_shape: (C, H, W) of the images.
        stages: ``"auto"``, a list of module names, or a regular expression that whole names match.

    Returns:
        A row a stage in the order in which they run: ``depth`` (from 1), ``stage`` (the module's name), ``module`` (its
        class), ``shape`` of its output, ``parameters`` and ``flops`` since the stage before, and
        ``parameters_to_here`` and ``flops_to_here`` (of one image) with all before.

    Raises:
        ModelError: The network cannot be run, or no stages can be found by themselves.
        CaptureError: A name or an expression fits no module.
        UserCodeError: The network raises an error for an image of this shape.

    Examples:
        >>> import torch
        >>> layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()]
        >>> model = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> lw.find_stages(model, (1, 8, 8))[["stage", "shape", "parameters_to_here"]].values.tolist()
        [['1', (4, 6, 6), 40], ['3', (4, 4, 4), 188]]
    """
    import pandas as pd

    image = image_of_shape(image_shape)
    network = unwrap(check_model(model))
    names = finding.find_stages(network, image, stages)
    described = describe_stages(network, image, names)
    rows = [{"depth": depth, **asdict(stage)} for depth, stage in enumerate(described, start=1)]
    return pd.DataFrame(rows).rename(columns={"name": "stage"})


def image_of_shape(image_shape: Sequence[int]) -> Tensor:
    """A random image (1, C, H, W), always the same; raises CaptureError where the shape is none."""
    shape = list(image_shape) if isinstance(image_shape, Sequence) and not isinstance(image_shape, str) else []
    if len(shape) != 3 or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape):
        raise CaptureError(
            f"image_shape is {shown(image_shape)}; give (channels, height, width), such as (3, 224, 224)"
        )
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
