"""The k-hidden-layer convolutional head (Belilovsky et al. 2019)."""

import torch
from torch import Tensor, nn

from lwexplain.models.heads.base import HEADS, AsMap
from lwexplain.models.options import check_whole_number
from lwexplain.models.site import Site


@HEADS.register("conv")
class ConvHead(nn.Module):
    """A few 3x3 convolutions, average pool to 2x2 and one linear layer (Belilovsky et al. 2019).

    ``hidden`` convolutions of ``width`` channels (default: as many as the features, at least 64) with batch
    norm and ReLU; the first one has stride 2 where the features are 8 pixels or larger, which keeps the cost of
    the head on early, large maps near that of the stage itself. Tokens are laid out on the grid of their patches where
    the network's own head reads these alone.
    """

    def __init__(self, site: Site, *, hidden: int = 2, width: int | None = None) -> None:
        super().__init__()
        self.as_map = AsMap(site, "conv", neighbours=True)
        check_whole_number("training.head_options.hidden", hidden)
        if width is not None:
            check_whole_number("training.head_options.width", width)
        channels, size = self.as_map.shape[0], min(self.as_map.shape[1:])
        width = width or max(64, channels)
        layers: list[nn.Module] = []
        for position in range(hidden):
            stride = 2 if position == 0 and size >= 8 else 1
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        side = 2 if size >= 2 else 1
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Linear(width * side * side, site.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.convolutions(self.as_map(features))), 1))
