"""Where paths through a network meet: tensors that come from the image, broadcast together."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from lwexplain.models.receptive_field_trace import NOWHERE, Dim, Factor, Trace, axes_of, canonical, hull, size_of


def met(traces: Sequence[Trace], ndim: int) -> Trace:
    """The trace of tensors that are broadcast together to ``ndim`` dimensions.

    Where one moves on with an index and another does not, or otherwise, the distance between what they see depends on
    the index, so that all of them count. A tensor that sees the whole image changes nothing of where others lead.
    """
    shortest = hull([trace.field for trace in traces]).smallest
    dims: list[Dim] = []
    for at in range(-ndim, 0):
        there = [trace.dims[at] for trace in traces if len(trace.dims) >= -at]
        leading = [dim for dim in there if axes_of(dim) and size_of(dim) > 1]
        if not leading:
            dims.append(max(there, key=lambda dim: (size_of(dim), bool(axes_of(dim)))))
            continue
        axes, size = frozenset().union(*map(axes_of, leading)), size_of(leading[0])
        cuts = sorted({cut for dim in there if size_of(dim) == size for cut in _cuts(dim)})
        if any(outer % inner for inner, outer in pairwise(cuts)):  # no factors that all have in common
            cuts = [1, size]
        traces = [_cut(trace, at, cuts) if _size_at(trace, at) == size else trace for trace in traces]
        bound = [trace for trace in traces if any(math.isfinite(trace.field.last[axis]) for axis in axes)]
        full = [trace.dims[at] for trace in traces if _size_at(trace, at) == size]
        found: list[Factor] = []
        apart: set[int] = set()
        for place, (inner, outer) in enumerate(reversed(list(pairwise(cuts)))):
            steps = [trace.dims[at][place][0] if _size_at(trace, at) == size else NOWHERE for trace in bound]
            leads = next((dim[place][0] for dim in full if any(dim[place][0])), NOWHERE)
            if len({tuple(map(str, each)) for each in [*steps, leads]}) > 1:
                apart.add(place)
            found.append((NOWHERE if place in apart else leads, outer // inner))
        traces = [_factors_together(trace, at, apart) if _size_at(trace, at) == size else trace for trace in traces]
        dims.append(canonical(tuple(found)))
    return Trace(replace(hull([trace.field for trace in traces]), smallest=shortest), tuple(dims))


def _size_at(trace: Trace, at: int) -> int:
    return size_of(trace.dims[at]) if len(trace.dims) >= -at else 1


def _cuts(dim: Dim) -> list[int]:
    """After how many indices a factor of the dimension begins anew, from 1 to its size."""
    found = [1]
    for _, size in reversed(dim):
        found.append(found[-1] * size)
    return found


def _cut(trace: Trace, at: int, cuts: Sequence[int]) -> Trace:
    """The same trace with the factors of a dimension cut up, so that one begins at each of ``cuts``."""
    own, factors, dim = _cuts(trace.dims[at]), list[Factor](), list(reversed(trace.dims[at]))
    for inner, outer in pairwise(cuts):
        place = max(number for number, begin in enumerate(own[:-1]) if begin <= inner)
        if outer > own[place + 1]:
            return _factors_unknown(trace, at, cuts)
        steps = tuple(step * (inner // own[place]) if step else 0.0 for step in dim[place][0])
        factors.append((steps, outer // inner))
    return trace.with_dim(at, tuple(reversed(factors)))


def _factors_unknown(trace: Trace, at: int, cuts: Sequence[int]) -> Trace:
    steps = tuple(math.nan if axis in axes_of(trace.dims[at]) else 0.0 for axis in range(len(NOWHERE)))
    return trace.with_dim(at, tuple((steps, outer // inner) for inner, outer in reversed(list(pairwise(cuts)))))


def _factors_together(trace: Trace, at: int, places: set[int]) -> Trace:
    dim = at % len(trace.dims)
    return trace.together(lambda other, place: other == dim and place in places)
