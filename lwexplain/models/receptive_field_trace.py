"""What is known of a tensor that comes from an image: its receptive field, and where its dimensions lead.

A position of the tensor is a tuple of indices. Moving an index by one moves what the position sees by a step, in pixels
along each axis of the image; so a position sees from the sum of index times step plus ``first`` to the same sum plus
``last``. Offsets matter: of two branches of which one is shifted against the other, a position sees the hull.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ReceptiveField:
    """How many pixels of the image one position of a feature map depends on, along each axis (height, width).

    ``largest`` along the longest path through the network, ``smallest`` along the shortest (shortcuts make them
    differ); infinite where positions are brought together over the whole axis, by pooling, flattening or attention.
    ``jump`` is the distance of neighbouring positions. It is that of a position far from the border: padding and what
    is rolled around count as pixels beyond. ``first`` and ``last`` are the pixels that the position at index 0 sees.
    ``assumed`` names the operations of which nothing is known and that are therefore taken to see the whole image.
    """

    first: tuple[float, ...]
    last: tuple[float, ...]
    smallest: tuple[float, ...]
    jump: tuple[float, ...]
    assumed: frozenset[str] = frozenset()

    @property
    def largest(self) -> tuple[float, ...]:
        ends = zip(self.first, self.last, strict=True)
        return tuple(round(last - first + 1, 6) if math.isfinite(last) else math.inf for first, last in ends)

    def moved(self, axis: int, low: float, high: float | None = None) -> "ReceptiveField":
        """Its first pixel moved by ``low``, its last by ``high`` (None: likewise); the rest is a longer path."""
        high = low if high is None else high
        return replace(
            self,
            first=replaced(self.first, axis, self.first[axis] + low),
            last=replaced(self.last, axis, self.last[axis] + high),
            smallest=replaced(self.smallest, axis, self.smallest[axis] + high - low),
        )

    def strided(self, axis: int, stride: float) -> "ReceptiveField":
        """With neighbouring positions ``stride`` times as far apart."""
        return replace(self, jump=replaced(self.jump, axis, self.jump[axis] * stride))

    def whole(self, axes: frozenset[int], assumed: str | None = None) -> "ReceptiveField":
        """After positions along ``axes`` have been brought together, or by an unknown operation named ``assumed``."""
        field = self
        for axis in axes:
            field = replace(
                field,
                first=replaced(field.first, axis, -math.inf),
                last=replaced(field.last, axis, math.inf),
                smallest=replaced(field.smallest, axis, math.inf),
            )
        return replace(field, assumed=field.assumed | {assumed}) if assumed else field


Steps = tuple[float, ...]
"""By how many pixels one moves along each axis of the image with an index; NaN where that is not known."""

Factor = tuple[Steps, int]
"""A part of a dimension: its steps and its size."""

Dim = tuple[Factor, ...]
"""A dimension as the row-major product of its factors: several after a reshape that merged some."""

NOWHERE: Steps = (0.0, 0.0)
ANYWHERE: Steps = (math.nan, math.nan)


@dataclass(frozen=True)
class Trace:
    """What is known of a tensor that comes from the image: its receptive field, and where its dimensions lead."""

    field: ReceptiveField
    dims: tuple[Dim, ...]

    def along(self, dim: int) -> frozenset[int]:
        """The axes of the image that one moves along with the index of a dimension."""
        return axes_of(self.dims[dim])

    def line(self, dim: int) -> Steps | None:
        """The steps of a dimension where every index makes the same ones, else None."""
        factors = self.dims[dim]
        if len(factors) == 1 and not any(map(math.isnan, factors[0][0])):
            return factors[0][0]
        return None

    def with_dim(self, dim: int, factors: Dim) -> "Trace":
        return replace(self, dims=replaced(self.dims, dim % len(self.dims), factors))

    def shifted(self, dim: int, count: float) -> "Trace":
        """Index 0 of a dimension with the same steps all along is what index ``count`` was."""
        steps = self.line(dim)
        assert steps is not None
        field = self.field
        for axis, step in enumerate(steps):
            if step:
                field = field.moved(axis, count * step)
        return replace(self, field=field)

    def together(self, chosen: Callable[[int, int], bool]) -> "Trace":
        """After all indices of the factors ``chosen(dim, place)`` have been brought together.

        That is the whole image along an axis that nothing else leads along, else what the factors span.
        """
        field = self.field
        places = [(dim, place) for dim, factors in enumerate(self.dims) for place in range(len(factors))]
        gone = [at for at in places if chosen(*at)]
        for axis in range(len(field.jump)):
            spans = [step * (size - 1) for step, size in self._moves(gone, axis)]
            if not spans:
                continue
            others = [size for _, size in self._moves([at for at in places if at not in gone], axis)]
            if any(map(math.isnan, spans)) or not any(size > 1 for size in others):
                field = field.whole(frozenset({axis}))
            else:
                field = field.moved(axis, sum(min(0.0, span) for span in spans), sum(max(0.0, span) for span in spans))
        dims = tuple(
            canonical(
                tuple(
                    (NOWHERE, factor[1]) if (dim, place) in gone and factor[1] > 1 else factor
                    for place, factor in enumerate(factors)
                )
            )
            for dim, factors in enumerate(self.dims)
        )
        return Trace(field, dims)

    def dims_together(self, *dims: int) -> "Trace":
        """``together`` for whole dimensions."""
        named = {dim % len(self.dims) for dim in dims}
        return self.together(lambda dim, _: dim in named)

    def unknown(self, axes: frozenset[int], name: str) -> "Trace":
        """After the operation ``name``, of which is not known what it does along ``axes``."""
        return replace(self, field=self.field.whole(axes, name)) if axes else self

    def _moves(self, places: Sequence[tuple[int, int]], axis: int) -> list[tuple[float, int]]:
        factors = [self.dims[dim][place] for dim, place in places]
        return [(steps[axis], size) for steps, size in factors if steps[axis] != 0]


def trace_of_image(image: Tensor) -> Trace:
    """The trace of the image (N, C, H, W) itself."""
    steps = (NOWHERE, NOWHERE, (1.0, 0.0), (0.0, 1.0))
    dims = tuple(((step, size),) for step, size in zip(steps, image.shape, strict=True))
    zeros, ones = (0.0, 0.0), (1.0, 1.0)
    return Trace(ReceptiveField(zeros, zeros, ones, ones), dims)


def of_positions(trace: Trace) -> ReceptiveField:
    """What one position of a feature map sees, all its channels together.

    Channels are the second or the last dimension: the one whose index moves least through the image.
    """
    ndim = len(trace.dims)
    if ndim not in (3, 4):
        return trace.field
    return trace.dims_together(min((1, ndim - 1), key=lambda dim: _longest_step(trace.dims[dim]))).field


def hull(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """Where paths meet: from the first pixel of any to the last of any, and the smallest of the smallest."""
    return ReceptiveField(
        tuple(map(min, zip(*(field.first for field in fields), strict=True))),
        tuple(map(max, zip(*(field.last for field in fields), strict=True))),
        tuple(map(min, zip(*(field.smallest for field in fields), strict=True))),
        tuple(map(max, zip(*(field.jump for field in fields), strict=True))),
        frozenset().union(*(field.assumed for field in fields)),
    )


def canonical(dim: Dim) -> Dim:
    """The same dimension with neighbouring factors made one where the outer goes on where the inner ends."""
    factors: list[Factor] = []
    for steps, size in dim:
        if factors:
            outer, length = factors[-1]
            if size == 1 and not any(steps):
                continue
            if all(far == near * size for far, near in zip(outer, steps, strict=True)):
                factors[-1] = (steps, length * size)
                continue
            if length == 1 and not any(outer):
                factors[-1] = (steps, size)
                continue
        factors.append((steps, size))
    return tuple(factors)


def axes_of(dim: Dim) -> frozenset[int]:
    """The axes of the image that a dimension leads along."""
    return frozenset(axis for steps, _ in dim for axis, step in enumerate(steps) if step != 0)


def size_of(dim: Dim) -> int:
    """How many indices a dimension has."""
    return math.prod(size for _, size in dim)


def replaced(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    """``values`` with another value at ``index``."""
    changed = list(values)
    changed[index] = value
    return tuple(changed)


def _longest_step(dim: Dim) -> float:
    steps = [abs(step) for factor, size in dim if size > 1 for step in factor]
    return math.inf if any(map(math.isnan, steps)) else max(steps, default=0.0)
