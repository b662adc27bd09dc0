"""The auxiliary network of decoupled greedy learning (Belilovsky et al. 2020)."""

import math

import torch
from torch import Tensor, nn

from lwexplain.models.heads.base import HEADS, AsMap
from lwexplain.models.options import check_whole_number
from lwexplain.models.site import Site


@HEADS.register("mlp_sr")
class MlpSrHead(nn.Module):
    """Average pool to a quarter of the resolution, 1x1 convolutions and an MLP on 2x2 (Belilovsky et al. 2020).

    The MLP-SR net of decoupled greedy learning (Sec. 5 and the authors' code), cheap on large maps. Features
    (N, C, H, W) are averaged to ceil(H/4) x ceil(W/4); ``convolutions`` 1x1 convolutions C -> C follow, an average
    pool to 2x2, ``layers`` linear layers 4C -> 4C and one to the logits (N, K). All but the last have batch norm and
    ReLU and hence no bias. A side that has one pixel left stays one pixel, where the authors' code repeats it: that
    needs more weights and tells no more. Tokens are laid out on the grid of their patches; where the network's own
    head reads a class token, what it reads is a map of one position.
    """

    def __init__(self, site: Site, *, convolutions: int = 3, layers: int = 3) -> None:
        super().__init__()
        self.as_map = AsMap(site, "mlp_sr")
        check_whole_number("training.head_options.convolutions", convolutions)
        check_whole_number("training.head_options.layers", layers)
        channels, height, width = self.as_map.shape
        rows, columns = math.ceil(height / 4), math.ceil(width / 4)
        self.reduce = nn.AdaptiveAvgPool2d((rows, columns))
        self.convolutions = nn.Sequential()
        for _ in range(convolutions):
            self.convolutions.extend(
                [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            )
        rows, columns = min(2, rows), min(2, columns)
        self.pool = nn.AdaptiveAvgPool2d((rows, columns))
        units = channels * rows * columns
        self.layers = nn.Sequential()
        for _ in range(layers):
            self.layers.extend([nn.Linear(units, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()])
        self.classifier = nn.Linear(units, site.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.convolutions(self.reduce(self.as_map(features)))
        return self.classifier(self.layers(torch.flatten(self.pool(maps), 1)))
