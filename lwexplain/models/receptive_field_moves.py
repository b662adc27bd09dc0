"""Operations that only move positions about: where the dimensions lead afterwards.

Each gives the trace, or the axes of the image along which it is not known any more, or None where nothing is known.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from lwexplain.models.receptive_field_meeting import met
from lwexplain.models.receptive_field_trace import NOWHERE, Dim, Factor, Trace, axes_of, canonical, hull, size_of

Shape = Sequence[int]
Moved = Trace | frozenset[int] | None


def reshaped(trace: Trace, shape: Shape) -> Moved:
    """The factors of all dimensions in row-major order, dealt to the new dimensions."""
    if math.prod(shape) != math.prod(map(size_of, trace.dims)) or not math.prod(shape):
        return None
    left = [factor for dim in trace.dims for factor in dim]
    dims: list[Dim] = []
    for size in shape:
        dim: Dim = ()
        while left and (size_of(dim) < size or (not dim and left[0][1] == 1)):
            steps, length = left.pop(0)
            needed = math.gcd(size // size_of(dim), length)
            if needed == 1 < length:  # no division into rows and columns that these sizes share
                return None
            if needed < length:  # this dimension takes the outer part
                left.insert(0, (steps, length // needed))
                steps = tuple(step * (length // needed) for step in steps)
            dim += ((steps, needed),)
        dims.append(dim or ((NOWHERE, 1),))
    if left and dims:  # dimensions of size 1 that vanish at the end
        dims[-1] += tuple(left)
    return Trace(trace.field, tuple(map(canonical, dims)))


def part_of(trace: Trace, dim: int, start: int, step: int, size: int | None) -> Moved:
    """``size`` indices of a dimension from ``start`` on, ``step`` apart; the single one at ``start`` for None."""
    factors = trace.dims[dim]
    if not axes_of(factors):
        kept: tuple[Dim, ...] = () if size is None else (((NOWHERE, size),),)
        return Trace(trace.field, (*trace.dims[:dim], *kept, *trace.dims[dim + 1 :]))
    if size is None:
        for steps, length in reversed(factors):
            trace, start = _at_index(trace, steps, start % length), start // length
        return Trace(trace.field, (*trace.dims[:dim], *trace.dims[dim + 1 :]))
    if (start, step, size) == (0, 1, size_of(factors)):
        return trace
    outer, inner = factors[0], factors[1:]
    block = size_of(inner)
    if not inner and any(map(math.isnan, outer[0])):  # somewhere, as before
        return trace.with_dim(dim, ((outer[0], size),))
    if start % block == 0 and size % block == 0 and (step == 1 or block == 1):  # whole blocks of the outer factor
        trace = _at_index(trace, outer[0], start // block)
        sliced: Factor = (tuple(each * step for each in outer[0]), size // block)
        return trace.with_dim(dim, (sliced, *inner))
    return axes_of(factors)


def side_by_side(parts: Sequence[tuple[Trace | None, Shape]], dim: int, *, stacked: bool) -> Moved:
    """Tensors put one after another along ``dim``, or along a new one; None for a tensor that is not of the image."""
    known = [trace for trace, _ in parts if trace is not None]
    if stacked:
        return _stack(known, len(parts), dim)
    moved, start = [], 0
    for trace, shape in parts:
        if trace is not None:
            if trace.along(dim) and trace.line(dim) is not None:
                trace = trace.shifted(dim, -start)
            moved.append(trace)
        start += shape[dim]
    axes = frozenset().union(*(trace.along(dim) for trace in moved))
    ndim = len(known[0].dims)
    if not axes:
        return met(moved, ndim).with_dim(dim, ((NOWHERE, start),))
    if all(any(trace.along(other) for other in range(ndim) if other != dim) for trace in moved) and all(
        axis in axes_of(_rest(trace, dim)) for trace in moved for axis in axes
    ):  # channels that hold positions: the axes themselves are led along by others
        return met([trace.dims_together(dim) for trace in moved], ndim).with_dim(dim, ((NOWHERE, start),))
    united = hull([trace.field for trace in moved])
    lines = {trace.line(dim) for trace in moved}
    spans = [(trace.field.first, trace.field.last) for trace in moved]
    aligned = len(lines) == 1 and None not in lines and (united.first, united.last) in spans
    steps = lines.pop() if aligned and len(moved) == len(parts) else None
    if steps is not None:
        return met([trace.with_dim(dim, ((steps, start),)) for trace in moved], ndim)
    # a position sees what it saw in its own part, but the index no longer tells where that is
    largest = max(moved, key=lambda trace: trace.field.largest)
    if any(
        size > most for trace in moved for size, most in zip(trace.field.largest, largest.field.largest, strict=True)
    ):
        return axes
    somewhere = tuple(math.nan if axis in axes else 0.0 for axis in range(len(NOWHERE)))
    assumed = united.assumed
    field = replace(largest.field, smallest=united.smallest, assumed=assumed)
    return Trace(field, largest.dims).with_dim(dim, ((somewhere, start),))


def rolled(trace: Trace, shifts: Sequence[int], dims: Sequence[int], shape: Shape) -> Moved:
    """Positions moved around, each to ``shift`` further on: the one at index 0 is the one that was at -shift."""
    if not dims:
        return None
    for shift, dim in zip(shifts, dims, strict=True):
        if not trace.along(dim):
            continue
        if trace.line(dim) is None:
            return trace.along(dim)
        length = shape[dim]
        near = (shift + length // 2) % length - length // 2  # the shorter way round
        trace = trace.shifted(dim, -near)
    return trace


def flipped(trace: Trace, dims: Sequence[int]) -> Moved:
    """Dimensions that run the other way."""
    for dim in dims:
        factors = []
        for steps, size in trace.dims[dim]:
            trace = _at_index(trace, steps, size - 1)
            factors.append((tuple(-step if step else 0.0 for step in steps), size))
        trace = trace.with_dim(dim, tuple(factors))
    return trace


def padded(trace: Trace, pad: Sequence[int]) -> Moved:
    """Positions put before (``pad[0]``, ``pad[2]``, ...) and behind the last dimensions, or taken away."""
    for at in range(len(pad) // 2):
        dim = len(trace.dims) - 1 - at
        before, behind = pad[2 * at], pad[2 * at + 1]
        if not (before or behind):
            continue
        if trace.along(dim) and trace.line(dim) is None:
            return trace.along(dim)
        steps = trace.line(dim)
        assert steps is not None
        size = size_of(trace.dims[dim]) + before + behind
        trace = trace.shifted(dim, -before).with_dim(dim, ((steps, size),))
    return trace


def space_to_depth(trace: Trace, block: int) -> Moved:
    """(..., C, H r, W r) -> (..., C r r, H, W)."""
    high, wide = trace.line(-2), trace.line(-1)
    if high is None or wide is None:
        return trace.along(-2) | trace.along(-1)
    sizes = size_of(trace.dims[-2]) // block, size_of(trace.dims[-1]) // block
    channels = canonical((*trace.dims[-3], (high, block), (wide, block)))
    rows, columns = (tuple(step * block for step in steps) for steps in (high, wide))
    return Trace(trace.field, (*trace.dims[:-3], channels, ((rows, sizes[0]),), ((columns, sizes[1]),)))


def _stack(traces: Sequence[Trace], count: int, dim: int) -> Moved:
    """Along a new dimension; it leads on where each tensor sees the same as the one before, a step further on."""
    first = traces[0]
    ndim = len(first.dims)
    united, new = met(traces, ndim), NOWHERE
    alike = len(traces) == count and all(
        (each.dims, each.field.largest) == (first.dims, first.field.largest) for each in traces
    )
    if alike and count > 1:
        steps = tuple(
            other - one if math.isfinite(one) else 0.0
            for one, other in zip(first.field.first, traces[1].field.first, strict=True)
        )
        expected = [
            tuple(one + place * step for one, step in zip(first.field.first, steps, strict=True))
            for place in range(count)
        ]
        if [each.field.first for each in traces] == expected:
            united, new = first, steps
    return Trace(united.field, (*united.dims[:dim], ((new, count),), *united.dims[dim:]))


def _at_index(trace: Trace, steps: Sequence[float], index: int) -> Trace:
    field = trace.field
    for axis, step in enumerate(steps):
        if math.isnan(step):
            field = field.whole(frozenset({axis}))
        elif step and index:
            field = field.moved(axis, index * step)
    return Trace(field, trace.dims)


def _rest(trace: Trace, dim: int) -> Dim:
    return tuple(factor for at, factors in enumerate(trace.dims) if at != dim for factor in factors)
