"""What an operation of PyTorch does to the receptive field, and to the dimensions that lead through the image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lwexplain.models.receptive_field_trace import (
    NOWHERE,
    Dim,
    ReceptiveField,
    Trace,
    merged,
    replaced,
    size_of,
    united,
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
            rule = _whole if "attention" in self.name or "transformer" in self.name else _elementwise
        found = rule(self, output)
        fitting = zip(range(output.ndim), found.dims, output.shape, strict=True)
        dims = (dim if size_of(dim) == size else ((found.along(at), size),) for at, dim, size in fitting)
        return Trace(found.field, tuple(dims))

    @property
    def traces(self) -> list[Trace]:
        return [trace for _, trace in self.followed]

    @property
    def main(self) -> Trace:
        """The trace of the first tensor that has one."""
        return self.followed[0][1]

    @property
    def field(self) -> ReceptiveField:
        return merged([trace.field for trace in self.traces])

    def dim(self, argument: str = "dim", default: int = 0) -> int:
        """The dimension that an argument names, counted from 0."""
        return int(self.given.get(argument, default)) % len(self.main.dims)


def _elementwise(operation: Operation, output: Tensor) -> Trace:
    """Inputs broadcast to the shape of the output: the largest and smallest of their fields. An operation along a
    dimension (softmax, a cumulative sum) brings that one together; one that changes the shape is unknown."""
    if not all(_broadcasts(tensor.shape, output.shape) for tensor, _ in operation.followed):
        return _whole(operation, output, assumed=True)
    found = Trace(operation.field, united(operation.traces, output.ndim))
    dim = operation.given.get("dim")
    return replace(found, field=found.field.whole(found.along(dim))) if isinstance(dim, int) and output.ndim else found


def _whole(operation: Operation, output: Tensor, assumed: bool = False) -> Trace:
    """Every position of the output sees all of the image, and its dimensions may lead anywhere."""
    everywhere = frozenset(range(len(operation.field.jump)))
    field = operation.field.whole(everywhere)
    if assumed:
        field = replace(field, assumed=field.assumed | {operation.name})
    return Trace(field, tuple(((everywhere, size),) for size in output.shape))


def _convolution(operation: Operation, output: Tensor) -> Trace:
    trace, weight = operation.main, operation.given["weight"]
    if operation.given["transposed"]:
        return _whole(operation, output, assumed=True)
    if weight.shape[1] > 1:  # channels that hold positions of the image are brought together
        channels = 1 - weight.ndim
        dims = replaced(trace.dims, channels, ((NOWHERE, output.shape[channels]),))
        trace = Trace(trace.field.whole(trace.along(channels)), dims)
    sizes = zip(weight.shape[2:], operation.given["dilation"], strict=True)
    return _windows(trace, [1 + (size - 1) * dilation for size, dilation in sizes], operation.given["stride"])


def _pooling(operation: Operation, output: Tensor) -> Trace:
    rank = _rank(operation)
    kernel = _each(operation.given["kernel_size"], rank)
    sizes = zip(kernel, _each(operation.given.get("dilation") or 1, rank), strict=True)
    stride = _each(operation.given.get("stride") or kernel, rank)
    return _windows(operation.main, [1 + (size - 1) * dilation for size, dilation in sizes], stride)


def _adaptive_pooling(operation: Operation, output: Tensor) -> Trace:
    """Windows as the sizes of input and output make them; one window for all is the whole image."""
    trace, rank = operation.main, _rank(operation)
    source, target = operation.given["self"].shape[-rank:], output.shape[-rank:]
    kernel, stride = [], []
    for before, after in zip(source, target, strict=True):
        windows = [-((i + 1) * before // -after) - i * before // after for i in range(after)]
        kernel.append(math.inf if after == 1 else max(windows))
        stride.append(before / after)
    return _windows(trace, kernel, stride)


def _windows(trace: Trace, kernel: Sequence[float], stride: Sequence[float]) -> Trace:
    """Windows over the last dimensions; over one that leads along several axes at once they count as the whole."""
    field = trace.field
    for dim, size, step in zip(range(-len(kernel), 0), kernel, stride, strict=True):
        axes = trace.along(dim)
        if math.isinf(size) or (size > 1 and len(axes) > 1):
            field = field.whole(axes)
        elif len(axes) == 1:
            field = field.windowed(next(iter(axes)), size, step)
    return Trace(field, trace.dims)


def _reduction(operation: Operation, output: Tensor) -> Trace:
    """Dimensions brought together: those that the argument names, or all."""
    trace, named = operation.main, operation.given.get("dim")
    ndim = len(trace.dims)
    gone = range(ndim) if named is None or named == [] else [named] if isinstance(named, int) else named
    gone = {dim % max(ndim, 1) for dim in gone}
    field = trace.field.whole(frozenset().union(*(trace.along(dim) for dim in gone)))
    if output.ndim == ndim:
        return Trace(field, tuple(((NOWHERE, 1),) if at in gone else dim for at, dim in enumerate(trace.dims)))
    return Trace(field, tuple(dim for at, dim in enumerate(trace.dims) if at not in gone))


def _matrix_product(operation: Operation, output: Tensor) -> Trace:
    """What the inner dimensions of the two factors lead along is brought together; weights lead nowhere."""
    names = next(pair for pair in FACTORS if all(name in operation.given for name in pair))
    traces = []
    for name in names:
        value = operation.given[name]
        nowhere = Trace(operation.field, tuple(((NOWHERE, size),) for size in value.shape))
        traces.append(next((trace for tensor, trace in operation.followed if tensor is value), nowhere))
    first, second = traces
    batch = united([Trace(t.field, t.dims[:-2]) for t in traces], output.ndim - 2)
    field = operation.field.whole(first.along(-1) | second.along(-2))
    return Trace(field, (*batch, first.dims[-2], second.dims[-1]))


FACTORS = (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"))
"""The two factors of a matrix product, as its signature calls them."""


def _reshaped(operation: Operation, output: Tensor) -> Trace:
    """The factors of all dimensions in row-major order, dealt to the new dimensions."""
    if output.numel() != operation.followed[0][0].numel() or not output.numel():
        return _whole(operation, output, assumed=True)
    left = [factor for dim in operation.main.dims for factor in dim]
    dims: list[Dim] = []
    for size in output.shape:
        dim: Dim = ()
        while left and (size_of(dim) < size or (not dim and left[0][1] == 1)):
            axes, length = left.pop(0)
            needed = math.gcd(size // size_of(dim), length)
            if needed == 1 < length:  # no division into rows and columns that these sizes share
                return _whole(operation, output, assumed=True)
            if needed < length:  # this dimension takes the outer part
                left.insert(0, (axes, length // needed))
            dim += ((axes, needed),)
        dims.append(dim or ((NOWHERE, 1),))
    if left and dims:  # dimensions of size 1 that vanish at the end
        dims[-1] += tuple(left)
    return Trace(operation.field, tuple(dims))


def _permuted(operation: Operation, output: Tensor) -> Trace:
    order = list(range(output.ndim))
    if operation.name == "permute":
        order = [dim % output.ndim for dim in operation.given["dims"]]
    elif output.ndim > 1:
        pair = (0, 1) if operation.name == "t" else (operation.dim("dim0"), operation.dim("dim1"))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
    return Trace(operation.field, tuple(operation.main.dims[dim] for dim in order))


def _part(operation: Operation, output: Tensor) -> Trace:
    """Some indices of one dimension, whose step is a stride, or a single one."""
    trace, dim = operation.main, operation.dim()
    if output.ndim < len(trace.dims):
        return Trace(trace.field, trace.dims[:dim] + trace.dims[dim + 1 :])
    field = trace.field
    for axis in trace.along(dim):
        field = field.windowed(axis, 1, operation.given.get("step") or 1)
    return Trace(field, trace.dims)


def _side_by_side(operation: Operation, output: Tensor) -> Trace:
    dims = united(operation.traces, len(operation.main.dims))
    if operation.name == "stack":
        dim = int(operation.given.get("dim", 0)) % output.ndim
        dims = (*dims[:dim], ((NOWHERE, output.shape[dim]),), *dims[dim:])
    return Trace(operation.field, dims)


def _unmoved(operation: Operation, output: Tensor) -> Trace:
    return operation.main


Rule = Callable[[Operation, Tensor], Trace]

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
    ("constant_pad_nd", "reflection_pad2d", "replication_pad2d"): _unmoved,
}
"""What operations of ATen do; those not named here are elementwise where the shapes allow it, and else unknown."""


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in pairs)


def _rank(operation: Operation) -> int:
    """Over how many dimensions a pooling goes, by its name."""
    return int(operation.name.split("pool")[1][0])


def _each(value: Any, rank: int) -> list[int]:
    """An argument of a window along each of ``rank`` dimensions."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values
