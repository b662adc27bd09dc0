"""ResNet-10, -18 and -34 of basic blocks (He et al. 2016) and the slim ResNet-18."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from lwexplain.errors import ModelError
from lwexplain.models.build import MODELS
from lwexplain.models.options import check_positive_numbers
from lwexplain.models.pointwise import pointwise
from lwexplain.models.staged import StagedModel


class BlockStart(nn.Module):
    """First convolution of a basic block: x -> (relu(bn(conv(x))), x), the second part for the shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.relu(self.norm(self.conv(x))), x


class BlockEnd(nn.Module):
    """Second convolution of a basic block and the shortcut: (h, x) -> relu(bn(conv(h)) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(pointwise(inputs, outputs, stride), nn.BatchNorm2d(outputs))

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        h, x = state
        return F.relu(self.norm(self.conv(h)) + self.shortcut(x))


def stem_of(kind: str, channels: int, width: int) -> nn.Module:
    """``cifar``: 3x3 convolution, full resolution. ``imagenet``: 7x7, stride 2, and a 3x3 max pool, stride 2."""
    if kind == "cifar":
        return nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    if kind == "imagenet":
        return nn.Sequential(
            nn.Conv2d(channels, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
    raise ModelError(f"unknown stem {kind!r}; known: cifar, imagenet")


def build_resnet(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    blocks: Sequence[int],
    widths: Sequence[int],
    strides: Sequence[int],
    stem: str,
    units: str,
) -> StagedModel:
    """A ResNet cut into stages.

    ``blocks``, ``widths`` and ``strides`` give each group's number of basic blocks, channels and first stride.
    ``units``: ``block`` = stem and every basic block, ``group`` = stem and every group, ``layer`` = stem and every
    3x3 convolution (a block's first half hands its input on for the shortcut).
    """
    if not len(blocks) == len(widths) == len(strides):
        raise ModelError(f"blocks {blocks}, widths {widths} and strides {strides} must have one entry a group")
    stages: dict[str, nn.Module] = {"stem": stem_of(stem, input_shape[0], widths[0])}
    inputs = widths[0]
    for group, (count, outputs, stride) in enumerate(zip(blocks, widths, strides, strict=True), start=1):
        members: list[nn.Module] = []
        for index in range(count):
            step = stride if index == 0 else 1
            start, end = BlockStart(inputs, outputs, step), BlockEnd(inputs, outputs, step)
            inputs = outputs
            if units == "layer":
                stages[f"layer{group}.{index}.conv1"] = start
                stages[f"layer{group}.{index}.conv2"] = end
            members.append(nn.Sequential(start, end))
        if units == "group":
            stages[f"layer{group}"] = nn.Sequential(*members)
        elif units == "block":
            stages.update({f"layer{group}.{index}": member for index, member in enumerate(members)})
    model = StagedModel(stages, input_shape, num_classes, in_order=True)
    _initialise(model)
    return model


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


@dataclass(frozen=True)
class Variant:
    """A member of the family: basic blocks per group, channels of each group as multiples of the width, strides."""

    summary: str
    blocks: tuple[int, ...]
    factors: tuple[float, ...] = (1, 2, 4, 8)
    strides: tuple[int, ...] = (1, 2, 2, 2)


VARIANTS = {
    "resnet10": Variant("ResNet-10: a stem and four basic blocks (He et al. 2016).", (1, 1, 1, 1)),
    "resnet18": Variant("ResNet-18: a stem and eight basic blocks (He et al. 2016).", (2, 2, 2, 2)),
    "resnet34": Variant("ResNet-34: a stem and sixteen basic blocks (He et al. 2016).", (3, 4, 6, 3)),
    "slim_resnet18": Variant(
        "ResNet-18 with a changed hierarchy: earlier downsampling, a quarter of the parameters.",
        (1, 2, 2, 1),
        factors=(1.25, 2, 2.875, 3.5),
    ),
}
"""The slim one follows Ma et al. (2020), who find that shallow stages trained from a local loss separate classes badly
at full resolution, and that downsampling earlier moves the learning to deeper, better separable features. It keeps one
block at full resolution, so that every halving comes a block earlier, and one at the last; its stem is a quarter wider,
since narrow shallow stages hold the deep ones back, and the deep groups, where a ResNet-18 holds three quarters of its
parameters, are narrower."""


def _register(name: str, variant: Variant) -> None:
    def factory(
        input_shape: tuple[int, int, int],
        num_classes: int,
        *,
        width: int | None = None,
        units: str = "block",
        stem: str = "cifar",
        blocks: Sequence[int] = variant.blocks,
        strides: Sequence[int] = variant.strides,
        factors: Sequence[float] = variant.factors,
    ) -> StagedModel:
        check_positive_numbers("model.options.blocks", blocks, whole=True)
        check_positive_numbers("model.options.strides", strides, whole=True)
        check_positive_numbers("model.options.factors", factors)
        if not len(blocks) == len(strides) == len(factors):
            raise ModelError(
                f"model.options.blocks={list(blocks)}, strides={list(strides)} and factors={list(factors)} "
                "must have one entry a group, hence equal lengths"
            )
        widths = [max(1, round((width or 64) * factor)) for factor in factors]
        return build_resnet(
            input_shape, num_classes, blocks=blocks, widths=widths, strides=strides, stem=stem, units=units
        )

    factory.__doc__ = variant.summary
    MODELS.register(name)(factory)


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
