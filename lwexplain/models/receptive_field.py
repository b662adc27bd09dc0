"""The theoretical receptive field of stages, in pixels, followed through one forward pass."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from lwexplain.errors import ModelError
from lwexplain.models.receptive_field_meeting import met
from lwexplain.models.receptive_field_rules import Operation
from lwexplain.models.receptive_field_trace import (
    ANYWHERE,
    ReceptiveField,
    Trace,
    hull,
    of_positions,
    trace_of_image,
)


@dataclass(frozen=True)
class StageField:
    """The receptive field of what goes into a stage and of what comes out."""

    before: ReceptiveField
    after: ReceptiveField


Call = tuple[nn.Module, int]
"""A module and which of its calls in a forward pass, from 1."""


def receptive_fields(
    forward: Callable[[Tensor], object], stages: Mapping[str, Call], image: Tensor
) -> dict[str, StageField]:
    """Receptive fields by stage name, from ``forward`` of a blank ``image`` (1, C, H, W), which ends at the last stage.

    Put the modules in evaluation mode before. Normalisation counts as elementwise, whatever it takes its statistics of.
    Raises ModelError for an image of another shape and for a stage that did not run on anything that comes from it.
    """
    if image.ndim != 4:
        raise ModelError(f"the image has shape {tuple(image.shape)}; receptive fields are of (1, C, H, W)")
    names = {(id(module), number): name for name, (module, number) in stages.items()}
    calls: Counter[int] = Counter()
    before: dict[str, ReceptiveField] = {}
    found: dict[str, StageField] = {}
    tracer = ImageTracer()
    tracer.traces[image] = trace_of_image(image)

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls[id(module)] += 1
        name = names.get((id(module), calls[id(module)]))
        tensors = tracer.known((args, kwargs))
        if name is not None and tensors:
            before[name] = hull([of_positions(tracer.traces[tensor]) for tensor in tensors])

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        name = names.get((id(module), calls[id(module)]))
        tensors = tracer.known(output)
        if name in before and tensors:  # of several tensors the first one is the features
            found[name] = StageField(before[name], of_positions(tracer.traces[tensors[0]]))
        if len(found) == len(stages):
            raise _Enough

    handles: list[Any] = []
    try:
        for module in {id(module): module for module, _ in stages.values()}.values():
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
        with torch.no_grad(), tracer:
            forward(image)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    missing = [name for name in stages if name not in found]
    if missing:
        raise ModelError(f"no receptive field of {', '.join(missing)}: not run on anything that comes from the image")
    return {name: found[name] for name in stages}


class _Enough(BaseException):
    """Ends the forward pass once every stage has run; no ``except Exception`` of a model may swallow it."""


class ImageTracer(TorchDispatchMode):
    """While open, carries ``traces`` from the inputs to the outputs of every operation; other tensors are constants."""

    def __init__(self) -> None:
        super().__init__()
        self.traces: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def known(self, tree: Any) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf in self.traces]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        tensors = self.known((args, kwargs))
        if tensors and not name.startswith("new_") and not name.endswith("_like"):  # which take shapes only
            given = {parameter.name: value for parameter, value in zip(func._schema.arguments, args, strict=False)}
            operation = Operation(name, given | kwargs, [(tensor, self.traces[tensor]) for tensor in tensors])
            for output in tree_leaves(result):
                if isinstance(output, Tensor):
                    self.traces[output] = operation.trace_of(output)
                    if name == "copy_" and output._base is not None:
                        self._write_through(output, given["src"])
        return result

    def _write_through(self, view: Tensor, source: Tensor) -> None:
        """Give the tensor that ``view`` is a part of the trace of what was written there.

        What a tensor writes into itself (circular padding does) lies beyond the border, like any padding.
        """
        base, found = view._base, self.traces[view]
        assert base is not None
        if source._base is base:
            return
        traces = [self.traces[base]] if base in self.traces else []
        aligned = _in_the_whole(view, base, found)
        if aligned is None:
            axes = frozenset(range(len(found.field.jump)))
            aligned = Trace(found.field.whole(axes, "copy_"), tuple(((ANYWHERE, size),) for size in base.shape))
        self.traces[base] = met([*traces, aligned], base.ndim)


def _in_the_whole(view: Tensor, base: Tensor, trace: Trace) -> Trace | None:
    """The trace of a view that is a block of ``base``, by the positions of ``base``; None where it is no block."""
    if view.ndim != base.ndim or not view.numel():
        return None
    offset = int(view.storage_offset()) - int(base.storage_offset())
    strides = [int(stride) for stride in base.stride()]
    for dim in sorted(range(base.ndim), key=lambda dim: -strides[dim]):
        stride = strides[dim]
        start = offset // stride if base.shape[dim] > 1 else 0
        offset -= start * stride
        steps = trace.line(dim)
        if (view.stride(dim) != stride and view.shape[dim] > 1) or steps is None:
            return None
        trace = trace.shifted(dim, -start).with_dim(dim, ((steps, base.shape[dim]),))
    return trace
