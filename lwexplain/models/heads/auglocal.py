"""The auxiliary network of AugLocal (Ma et al. 2024): a short copy of what follows in the network."""

import math
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.heads.base import HEADS, pooled
from lwexplain.models.options import check_whole_number
from lwexplain.models.resnet import BlockEnd, BlockStart
from lwexplain.models.site import Site


@HEADS.register("auglocal")
class AugLocalHead(nn.Module):
    """Basic blocks like a sample of the stages that follow, average pool and one linear layer (Ma et al. 2024).

    Features (N, C, H, W) -> logits (N, K). Each stage of ``sampled_depths`` becomes a basic block with as many
    channels, whose stride is the ratio of the resolution before it to that of the stage, rounded up. ``depth`` blocks
    follow the first stage and, with a ``taper`` (in [0, 1]) above 0, fewer the later ones; none follow the last
    stage. A block that stands for an early stage costs as much as that stage.
    """

    def __init__(self, site: Site, *, depth: int = 2, taper: float = 0.5) -> None:
        super().__init__()
        check_whole_number("training.head_options.depth", depth)
        _check_taper(taper)
        if not site.last:
            _check_maps(site)
        copied = [site.shapes[stage - 1] for stage in sampled_depths(site, depth, taper)]
        channels = site.channels
        self.tokens = site.tokens
        self.blocks = nn.Sequential()
        for before, after in pairwise([site.shape, *copied]):
            stride = max(math.ceil(larger / smaller) for larger, smaller in zip(before[1:], after[1:], strict=True))
            start, end = BlockStart(channels, after[0], stride), BlockEnd(channels, after[0], stride)
            self.blocks.append(nn.Sequential(start, end))
            channels = after[0]
        self.classifier = nn.Linear(channels, site.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(pooled(self.blocks(features), self.tokens))


def sampled_depths(site: Site, depth: int, taper: float) -> list[int]:
    """Depths (from 1) of the stages after ``site`` that its head copies, ascending and up to the last stage.

    After stage l (from 0) of K there are d_l = max(1, round(d (1 - t) + t)) of them with t = taper * l / (K - 2), at
    most as many as follow, and the i-th is stage l + round((K - l - 1) i / d_l): options ``pyramid`` and ``unifSamp``
    of the authors' code. Halves are rounded up, where Python's ``round`` in that code goes to the even number.
    """
    following = len(site.following)
    share = taper * (site.depth - 1) / max(1, len(site.shapes) - 2)
    count = min(following, max(1, math.floor(depth * (1 - share) + share + 0.5)))
    return [site.depth + (2 * following * index + count) // (2 * count) for index in range(1, count + 1)]


def _check_taper(taper: Any) -> None:
    if isinstance(taper, bool) or not isinstance(taper, int | float) or not 0 <= taper <= 1:
        raise ModelError(f"training.head_options.taper={taper!r} must be a number from 0 to 1")


def _check_maps(site: Site) -> None:
    for depth, shape in enumerate((site.shape, *site.following), start=site.depth):
        if len(shape) != 3:
            raise ModelError(
                f"the auglocal head after stage {site.depth} needs features (C, H, W) from there on, found {shape} "
                f"after stage {depth}; use training.head=linear"
            )
