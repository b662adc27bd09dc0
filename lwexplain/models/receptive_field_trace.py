"""What is known of a tensor that comes from an image: its receptive field, and where its dimensions lead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ReceptiveField:
    """How many pixels of the image one position of a feature map depends on, along each axis (height, width).

    ``largest`` along the longest path through the network, ``smallest`` along the shortest (shortcuts make them
    differ); infinite where positions are brought together over the whole axis, by pooling, flattening or attention.
    ``jump`` is the distance of neighbouring positions. Padding counts as pixels. ``assumed`` names the operations of
    which nothing is known and that are therefore taken to see the whole image.
    """

    largest: tuple[float, ...]
    smallest: tuple[float, ...]
    jump: tuple[float, ...]
    assumed: frozenset[str] = frozenset()

    def windowed(self, axis: int, kernel: float, stride: float) -> "ReceptiveField":
        """After a window of ``kernel`` neighbouring positions, moved by ``stride`` (Araujo et al. 2019, eq. 2)."""
        reach = (kernel - 1) * self.jump[axis] if kernel > 1 else 0.0
        return replace(
            self,
            largest=replaced(self.largest, axis, self.largest[axis] + reach),
            smallest=replaced(self.smallest, axis, self.smallest[axis] + reach),
            jump=replaced(self.jump, axis, self.jump[axis] * stride),
        )

    def whole(self, axes: frozenset[int]) -> "ReceptiveField":
        """After positions along ``axes`` have been brought together."""
        field = self
        for axis in axes:
            largest, smallest = replaced(field.largest, axis, math.inf), replaced(field.smallest, axis, math.inf)
            field = replace(field, largest=largest, smallest=smallest)
        return field


Factor = tuple[frozenset[int], int]
"""A part of a dimension: the axes of the image that one moves along with its index, and its size."""

Dim = tuple[Factor, ...]
"""A dimension as the row-major product of its factors: several after a reshape that merged some."""

NOWHERE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Trace:
    """What is known of a tensor that comes from the image: its receptive field, and where its dimensions lead."""

    field: ReceptiveField
    dims: tuple[Dim, ...]

    def along(self, dim: int) -> frozenset[int]:
        """The axes of the image that one moves along with the index of a dimension."""
        return frozenset().union(*(axes for axes, _ in self.dims[dim]))


def trace_of_image(image: Tensor) -> Trace:
    """The trace of the image (N, C, H, W) itself."""
    axes = (NOWHERE, NOWHERE, frozenset({0}), frozenset({1}))
    ones = (1.0, 1.0)
    dims = tuple(((part, size),) for part, size in zip(axes, image.shape, strict=True))
    return Trace(ReceptiveField(ones, ones, ones), dims)


def merged(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """Where paths meet: the largest of the largest, the smallest of the smallest."""
    return ReceptiveField(
        tuple(map(max, zip(*(field.largest for field in fields), strict=True))),
        tuple(map(min, zip(*(field.smallest for field in fields), strict=True))),
        tuple(map(max, zip(*(field.jump for field in fields), strict=True))),
        frozenset().union(*(field.assumed for field in fields)),
    )


def united(traces: Sequence[Trace], ndim: int) -> tuple[Dim, ...]:
    """The dimensions of tensors that are broadcast together to ``ndim`` dimensions."""
    united = []
    for at in range(-ndim, 0):
        dims = [trace.dims[at] for trace in traces if len(trace.dims) >= -at]
        leading = {dim for dim in dims if any(axes for axes, _ in dim)}
        if len(leading) > 1:
            union = frozenset().union(*(axes for dim in leading for axes, _ in dim))
            leading = {((union, max(map(size_of, leading))),)}
        united.append(next(iter(leading or {max(dims, key=size_of)})))
    return tuple(united)


def size_of(dim: Dim) -> int:
    """How many indices a dimension has."""
    return math.prod(size for _, size in dim)


def replaced(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    """``values`` with another value at ``index``."""
    changed = list(values)
    changed[index] = value
    return tuple(changed)
