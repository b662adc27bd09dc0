"""What an operation of PyTorch does to the receptive field, and to the dimensions that lead through the image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lwexplain.models.receptive_field_meeting import met
from lwexplain.models.receptive_field_moves import (
    Shape,
    flipped,
    padded,
    part_of,
    reshaped,
    rolled,
    side_by_side,
    space_to_depth,
)
from lwexplain.models.receptive_field_trace import (
    ANYWHERE,
    NOWHERE,
    Dim,
    Trace,
    axes_of,
    canonical,
    hull,
    size_of,
)


@dataclass(frozen=True)
class Operation:
    """One call: its name in ATen, its arguments by name, and those tensors among them that come from the image."""

    name: str
    given: dict[str, Any]
    followed: list[tuple[Tensor, Trace]]

    def trace_of(self, output: Tensor) -> Trace:
        """The trace of an output of the operation."""
        rule = next((rule for names, rule in RULES.items() if self.name in names), None)
        if rule is None:
            rule = _elementwise
            if "transformer" in self.name or "attention" in self.name:
                rule = _attention if "dot_product" in self.name else _whole
            elif "fft" in self.name or self.name.startswith(UNKNOWN):
                rule = _unknown
        found = rule(self, output)
        dims = [_of_size(dim, size) for dim, size in zip(found.dims, output.shape, strict=True)]
        return Trace(found.field, tuple(dims))

    @property
    def traces(self) -> list[Trace]:
        return [trace for _, trace in self.followed]

    @property
    def main(self) -> Trace:
        """The trace of the first tensor that has one."""
        return self.followed[0][1]

    def trace_or_none(self, argument: str) -> Trace | None:
        """The trace of a tensor that an argument names, if it comes from the image."""
        value = self.given.get(argument)
        return next((trace for tensor, trace in self.followed if tensor is value), None)

    def dim(self, argument: str = "dim", default: int = 0) -> int:
        """The dimension that an argument names, counted from 0."""
        return int(self.given.get(argument, default)) % len(self.main.dims)


UNKNOWN = ("index", "gather", "scatter", "take", "grid_sampler", "as_strided", "sort", "argsort", "topk", "masked_")
"""How operations begin that fetch from positions which they are told, whatever the shapes."""


def _elementwise(operation: Operation, output: Tensor) -> Trace:
    """Inputs broadcast to the shape of the output: the hull of their fields. An operation along a dimension (softmax, a
    cumulative sum) brings that one together; one that changes the shape is unknown."""
    if not all(_broadcasts(tensor.shape, output.shape) for tensor, _ in operation.followed):
        return _unknown(operation, output)
    found, dims = met(operation.traces, output.ndim), operation.given.get("dim")
    named = [dims] if isinstance(dims, int) else dims if isinstance(dims, (list, tuple)) else []
    if output.ndim and named and all(type(dim) is int for dim in named):
        return found.dims_together(*named)
    return found


def _whole(operation: Operation, output: Tensor) -> Trace:
    """Every position of the output sees all of the image, and its dimensions may lead anywhere."""
    field = hull([trace.field for trace in operation.traces])
    return Trace(field.whole(_every_axis(field.jump)), tuple(((ANYWHERE, size),) for size in output.shape))


def _unknown(operation: Operation, output: Tensor) -> Trace:
    found = _whole(operation, output)
    return Trace(found.field.whole(frozenset(), operation.name), found.dims)


def _convolution(operation: Operation, output: Tensor) -> Trace:
    trace, weight = operation.main, operation.given["weight"]
    if operation.given["transposed"] or operation.trace_or_none("weight") is not None:
        return _unknown(operation, output)
    channels = len(trace.dims) - weight.ndim + 1
    trace = _channels_together(trace, channels, weight.shape[1], output.shape[channels], operation.name)
    given = operation.given
    sizes = zip(weight.shape[2:], given["dilation"], strict=True)
    kernel = [1 + (size - 1) * dilation for size, dilation in sizes]
    return _windows(operation, trace, kernel, given["stride"], given["padding"], output)


def _channels_together(trace: Trace, dim: int, group: int, made: int, name: str) -> Trace:
    """After a convolution has brought ``group`` neighbouring channels together, of which there are ``made`` then."""
    if not trace.along(dim):
        return trace.with_dim(dim, ((NOWHERE, made),))
    factors = trace.dims[dim]
    inner = len(factors)
    while inner and size_of(factors[inner:]) < group:
        inner -= 1
    if size_of(factors[inner:]) != group:  # the groups end within a factor
        inner, outside = 0, trace.dims_together(dim)
        return outside.unknown(axes_of(factors), name).with_dim(dim, ((NOWHERE, made),))
    trace = trace.together(lambda at, place: at == dim and place >= inner)
    kept = factors[:inner]
    return trace.with_dim(dim, canonical((*kept, (NOWHERE, made // size_of(kept)))))


def _pooling(operation: Operation, output: Tensor) -> Trace:
    rank, given = _rank(operation), operation.given
    kernel = _each(given["kernel_size"], rank)
    sizes = zip(kernel, _each(given.get("dilation") or 1, rank), strict=True)
    stride, padding = _each(given.get("stride") or kernel, rank), _each(given.get("padding") or 0, rank)
    return _windows(
        operation, operation.main, [1 + (size - 1) * dilation for size, dilation in sizes], stride, padding, output
    )


def _adaptive_pooling(operation: Operation, output: Tensor) -> Trace:
    """Windows as the sizes of input and output make them; one window for all is the whole image."""
    rank = _rank(operation)
    source, target = operation.given["self"].shape[-rank:], output.shape[-rank:]
    kernel, stride = [], []
    for before, after in zip(source, target, strict=True):
        windows = [-((i + 1) * before // -after) - i * before // after for i in range(after)]
        kernel.append(math.inf if after == 1 else max(windows))
        stride.append(before / after)
    return _windows(operation, operation.main, kernel, stride, [0] * rank, output)


def _windows(
    operation: Operation,
    trace: Trace,
    kernel: Sequence[float],
    stride: Sequence[float],
    padding: Sequence[int],
    output: Tensor,
) -> Trace:
    """Windows over the last dimensions. Where not every index makes the same whole step they are unknown."""
    for dim, size, each, pad in zip(range(-len(kernel), 0), kernel, stride, padding, strict=True):
        axes, steps = trace.along(dim), trace.line(dim)
        if math.isinf(size):
            trace = trace.dims_together(dim)
            continue
        if not axes:
            trace = trace.with_dim(dim, ((NOWHERE, output.shape[dim]),))
        elif steps is None or (size > 1 and any(step != int(step) for step in steps)):
            if size > 1 or each != 1 or pad:
                trace = trace.unknown(axes, operation.name).with_dim(dim, ((ANYWHERE, output.shape[dim]),))
        else:
            trace = _window(trace, dim, size, each, pad).with_dim(
                dim, ((tuple(step * each for step in steps), output.shape[dim]),)
            )
    return trace


def _window(trace: Trace, dim: int, size: float, stride: float, padding: int) -> Trace:
    """What a window adds (Araujo et al. 2019, eq. 2, with the offsets of eq. 4)."""
    field, steps = trace.field, trace.line(dim)
    assert steps is not None
    for axis, step in enumerate(steps):
        if step:
            ends = (-padding * step, (size - 1 - padding) * step)
            field = field.moved(axis, min(ends), max(ends)).strided(axis, stride)
    return Trace(field, trace.dims)


def _reduction(operation: Operation, output: Tensor) -> Trace:
    """Dimensions brought together: those that the argument names, or all."""
    trace, named = operation.main, operation.given.get("dim")
    ndim = len(trace.dims)
    gone = range(ndim) if named is None or named == [] else [named] if isinstance(named, int) else named
    gone = {dim % max(ndim, 1) for dim in gone}
    trace = trace.dims_together(*gone)
    if output.ndim == ndim:
        return Trace(trace.field, tuple(((NOWHERE, 1),) if at in gone else dim for at, dim in enumerate(trace.dims)))
    return Trace(trace.field, tuple(dim for at, dim in enumerate(trace.dims) if at not in gone))


def _matrix_product(operation: Operation, output: Tensor) -> Trace:
    """What the inner dimensions of the two factors lead along is brought together; weights lead nowhere. Two outer
    dimensions that lead along the same axis are, too: how far they are apart depends on both."""
    names = next(pair for pair in FACTORS if all(name in operation.given for name in pair))
    first, second = (operation.trace_or_none(name) for name in names)
    first = first and first.dims_together(-1)
    second = second and second.dims_together(-2)
    shared = bool(first and second and first.along(-2) & second.along(-1))
    if first and second and shared:
        first, second = first.dims_together(-2), second.dims_together(-1)
    parts = []
    for trace, own in ((first, -2), (second, -1)):
        if trace is not None:
            rest: Dim = ((NOWHERE, 1),)
            matrix = (trace.dims[own], rest) if own == -2 else (rest, trace.dims[own])
            parts.append(Trace(trace.field, (*trace.dims[:-2], *matrix)))
    bias = operation.trace_or_none("self") if "mat1" in names or "batch1" in names else None
    return met([*parts, *([bias] if bias else [])], output.ndim)


FACTORS = (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"))
"""The two factors of a matrix product, as its signature calls them."""


def _attention(operation: Operation, output: Tensor) -> Trace:
    """Scaled dot-product attention (N, ..., T, D): each query sees all keys and values of its batch and head."""
    traces = []
    for name in ("query", "key", "value"):
        trace = operation.trace_or_none(name)
        if trace is not None:
            traces.append(trace.dims_together(-1) if name == "query" else trace.dims_together(-1, -2))
    if not traces or len(traces[0].dims) != output.ndim or output.shape[:-1] != operation.given["query"].shape[:-1]:
        return _whole(operation, output)
    return met(traces, output.ndim)


def _reshaped(operation: Operation, output: Tensor) -> Trace:
    return _moved(operation, output, reshaped(operation.main, output.shape))


def _permuted(operation: Operation, output: Tensor) -> Trace:
    order = list(range(output.ndim))
    if operation.name == "permute":
        order = [dim % output.ndim for dim in operation.given["dims"]]
    elif output.ndim > 1:
        pair = (0, 1) if operation.name == "t" else (operation.dim("dim0"), operation.dim("dim1"))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
    return Trace(operation.main.field, tuple(operation.main.dims[dim] for dim in order))


def _part(operation: Operation, output: Tensor) -> Trace:
    """Some indices of one dimension, or a single one; where they begin is read off the memory that the view shows."""
    dim, source = operation.dim(), operation.followed[0][0]
    stride = source.stride(dim)
    start = int(output.storage_offset() - source.storage_offset()) // stride if stride and output.numel() else 0
    step = int(operation.given.get("step") or 1)
    size = output.shape[dim] if output.ndim == len(operation.main.dims) else None
    return _moved(operation, output, part_of(operation.main, dim, start, step, size))


def _side_by_side(operation: Operation, output: Tensor) -> Trace:
    parts = []
    for tensor in operation.given["tensors"]:
        trace = next((trace for other, trace in operation.followed if other is tensor), None)
        parts.append((trace, tensor.shape))
    dim = int(operation.given.get("dim", 0)) % output.ndim
    return _moved(operation, output, side_by_side(parts, dim, stacked=operation.name == "stack"))


def _rolled(operation: Operation, output: Tensor) -> Trace:
    dims = operation.given.get("dims") or []
    return _moved(operation, output, rolled(operation.main, operation.given["shifts"], dims, output.shape))


def _flipped(operation: Operation, output: Tensor) -> Trace:
    return _moved(operation, output, flipped(operation.main, operation.given["dims"]))


def _padded(operation: Operation, output: Tensor) -> Trace:
    given = operation.given
    return _moved(operation, output, padded(operation.main, given["pad"] if "pad" in given else given["padding"]))


def _space_to_depth(operation: Operation, output: Tensor) -> Trace:
    return _moved(operation, output, space_to_depth(operation.main, operation.given["downscale_factor"]))


def _moved(operation: Operation, output: Tensor, found: Trace | frozenset[int] | None) -> Trace:
    """What a move of positions has found, or the axes along which it is not known, or None where nothing is."""
    if isinstance(found, Trace):
        return found
    if found is None or not output.numel():
        return _unknown(operation, output)
    field = hull([trace.field for trace in operation.traces]).whole(found, operation.name)
    return Trace(field, tuple(((ANYWHERE, size),) for size in output.shape))


Rule = Callable[[Operation, Tensor], Trace]

PADDING = ("reflection", "replication", "constant")

RULES: dict[tuple[str, ...], Rule] = {
    ("convolution", "_convolution"): _convolution,
    ("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d"): _pooling,
    ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"): _adaptive_pooling,
    ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "linalg_vector_norm"): _reduction,
    ("mm", "addmm", "bmm", "baddbmm"): _matrix_product,
    ("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"): _reshaped,
    ("permute", "transpose", "t"): _permuted,
    ("slice", "select", "split", "split_with_sizes", "unbind"): _part,
    ("cat", "stack"): _side_by_side,
    ("roll",): _rolled,
    ("flip",): _flipped,
    ("pixel_unshuffle",): _space_to_depth,
    tuple(f"{kind}_pad{end}" for kind in PADDING for end in ("1d", "2d", "3d", "_nd")): _padded,
}
"""What operations of ATen do; those not named here are elementwise where the shapes allow it, and else unknown."""


def _of_size(dim: Dim, size: int) -> Dim:
    """The dimension with as many indices as the output has."""
    if size_of(dim) == size:
        return dim
    if len(dim) == 1:
        return ((dim[0][0], size),)
    return ((tuple(math.nan if axis in axes_of(dim) else 0.0 for axis in range(len(NOWHERE))), size),)


def _every_axis(axes: Sequence[float]) -> frozenset[int]:
    return frozenset(range(len(axes)))


def _broadcasts(shape: Shape, target: Shape) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in pairs)


def _rank(operation: Operation) -> int:
    """Over how many dimensions a pooling goes, by its name."""
    return int(operation.name.split("pool")[1][0])


def _each(value: Any, rank: int) -> list[int]:
    """An argument of a window along each of ``rank`` dimensions."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values
