"""The way of an image through a network: one forward pass, watched operation by operation and call by call.

A call of a module is a **passage** where all that the rest of the network reads of what was computed from the image so
far is in that call's output. A network can be cut there, and nothing that it knows of the image goes past the cut.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from lwexplain.models.layout import every_operation_visible
from lwexplain.models.modules import first_tensor, in_evaluation
from lwexplain.models.outputs import logits_in

NONLINEAR = frozenset(
    {
        *("relu", "relu6", "gelu", "silu", "elu", "celu", "selu", "mish", "hardswish", "hardsigmoid", "hardtanh"),
        *("leaky_relu", "prelu", "_prelu_kernel", "rrelu", "threshold", "softplus", "sigmoid", "log_sigmoid", "tanh"),
        *("_softmax", "_log_softmax", "clamp", "clamp_min", "clamp_max", "maximum", "square", "abs", "sin", "exp"),
        *("glu", "erf"),
    }
)
"""Operations after which a further layer computes what no single layer could."""

POOLING = frozenset({"mean", "amax", "sum", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "max"})
"""Operations that may bring all positions together."""


@dataclass(eq=False)
class Call:
    """One call of a module in the pass.

    ``start`` and ``end`` count the operations before its beginning and its end; ``entering`` and ``leaving`` are the
    values that the rest of the network still reads at these two; ``shape`` is that of its first tensor.
    """

    name: str
    module: nn.Module
    parent: "Call | None"
    start: int
    end: int = -1
    outputs: frozenset[int] = frozenset()
    shape: tuple[int, ...] = ()
    entering: frozenset[int] = frozenset()
    leaving: frozenset[int] = frozenset()
    calls: list["Call"] = field(default_factory=list)

    @property
    def is_passage(self) -> bool:
        """Whether all that is read later is in its output."""
        return bool(self.leaving) and self.leaving <= self.outputs

    def within(self) -> Iterator["Call"]:
        """The calls inside it, in order, at every level."""
        for call in self.calls:
            yield call
            yield from call.within()


@dataclass
class ImagePath:
    """What was seen of a forward pass: the call of the whole network, and its operations on what comes of the image.

    ``logits`` is the operation that made them, None where no way leads from the image to them.
    """

    root: Call
    operations: list["Operation"]
    logits: int | None

    def nonlinear_between(self, start: int, end: int) -> bool:
        """Whether an operation that is not linear lies between."""
        return any(operation.name in NONLINEAR for operation in self.operations[start:end])

    @property
    def pooled_at(self) -> int:
        """The count of operations up to where all positions have been brought together on the only way there is; that
        of all operations where they never are."""
        for place, operation in enumerate(self.operations):
            is_only_way = _live(self.operations, place + 1, self.logits) == {place}
            if operation.pools and is_only_way:
                return place
        return len(self.operations)


@dataclass
class Operation:
    """An operation on what comes of the image: ``reads`` are the places of those whose results it takes; ``last_read``
    is the place of the last one that takes its own on the way to the logits, -1 where none does."""

    name: str
    reads: frozenset[int]
    pools: bool
    last_read: int = -1


def path_of_image(model: nn.Module, image: Tensor, run: Callable[[Tensor], Any]) -> ImagePath:
    """Watch ``run(image)``, a forward pass of ``model`` in evaluation mode; the model is left as it was.

    ``image`` is (1, C, H, W). What the forward raises is passed on.
    """
    with in_evaluation(model), torch.no_grad(), every_operation_visible():
        watch = _Watch(image)
        calls = _Calls(model, watch)
        with watch:
            output = run(image)
    root = calls.first
    logits = watch.place_of(logits_in(output, len(image)))
    _mark_reads(watch.operations, logits)
    for call in (root, *root.within()):
        call.entering = _live(watch.operations, call.start, logits)
        call.leaving = _live(watch.operations, call.end, logits)
    return ImagePath(root, watch.operations, logits)


class _Watch(TorchDispatchMode):
    """Notes every operation on what comes of the image. The image itself is the operation 0."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.operations = [Operation("image", frozenset(), False)]
        self._places: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._places[image] = 0

    def place_of(self, tensor: Tensor) -> int | None:
        """The operation that gave a tensor its values; one that wrote to the whole of which it is a part counts."""
        own = self._places.get(tensor)
        base = tensor._base
        written = self._places.get(base) if base is not None else None
        found = [place for place in (own, written) if place is not None]
        return max(found, default=None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        reads = frozenset(place for tensor in given if (place := self.place_of(tensor)) is not None)
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if not reads or name.startswith("new_") or name.endswith("_like"):  # which take shapes only
            return result
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        plain_name = name if name in NONLINEAR else name.removesuffix("_")
        self.operations.append(Operation(plain_name, reads, plain_name in POOLING and any(map(_is_one_position, made))))
        for tensor in made:
            self._places[tensor] = len(self.operations) - 1
            if func._schema.is_mutable and tensor._base is not None:
                self._places[tensor._base] = len(self.operations) - 1
        return result


class _Calls:
    """Hooks that note every call of every module, one inside the other."""

    def __init__(self, model: nn.Module, watch: _Watch) -> None:
        self.watch = watch
        self.open: list[Call] = []
        self.seen: list[Call] = []
        self.counts: Counter[str] = Counter()
        self.names = {id(part): name for name, part in model.named_modules()}
        for part in model.modules():  # in_evaluation takes the hooks away
            part.register_forward_pre_hook(self.enter)
            part.register_forward_hook(self.leave)

    @property
    def first(self) -> Call:
        """The call of the whole, and names that say which call of a module is meant where there are several."""
        numbers: Counter[str] = Counter()
        for call in self.seen:
            numbers[call.name] += 1
            if self.counts[call.name] > 1:
                call.name = f"{call.name}#{numbers[call.name]}"
        return self.seen[0]

    def enter(self, module: nn.Module, _: Any) -> None:
        name = self.names[id(module)]
        parent = self.open[-1] if self.open else None
        call = Call(name, module, parent, start=len(self.watch.operations))
        self.counts[name] += 1
        self.seen.append(call)
        if parent is not None:
            parent.calls.append(call)
        self.open.append(call)

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        call = self.open.pop()
        while call.module is not module:  # what a module raised may be caught by the one around it
            call = self.open.pop()
        call.end = len(self.watch.operations)
        places = [self.watch.place_of(tensor) for tensor in tensors_in(output)]
        call.outputs = frozenset(place for place in places if place is not None)
        tensor = first_tensor(output)
        call.shape = () if tensor is None else tuple(tensor.shape)


def tensors_in(output: Any) -> list[Tensor]:
    """All tensors in what a module returned: a tensor, or lists, mappings and objects of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [tensor for value in output.values() for tensor in tensors_in(value)]
    if isinstance(output, (list, tuple)):
        return [tensor for value in output for tensor in tensors_in(value)]
    return [tensor for value in vars(output).values() for tensor in tensors_in(value)] if _has_values(output) else []


def _has_values(output: Any) -> bool:
    return hasattr(output, "__dict__") and not isinstance(output, (type, nn.Module)) and not callable(output)


def _is_one_position(tensor: Tensor) -> bool:
    """Whether (N, C, H, W) or (N, H, W, C) has a single position; or the positions are gone."""
    return tensor.ndim == 2 or (tensor.ndim == 4 and sorted(tensor.shape[1:])[:2] == [1, 1])


def _mark_reads(operations: list[Operation], logits: int | None) -> None:
    """Set ``last_read`` of all operations on the way to the logits."""
    if logits is None:
        return
    needed = {logits}
    operations[logits].last_read = len(operations)
    for place in range(logits, -1, -1):
        if place in needed:
            for read in operations[place].reads:
                needed.add(read)
                operations[read].last_read = max(operations[read].last_read, place)


def _live(operations: list[Operation], end: int, logits: int | None) -> frozenset[int]:
    """The operations before ``end`` whose results are read at or after it on the way to the logits."""
    return frozenset(place for place in range(end) if operations[place].last_read >= end)
