"""Which dimension of a stage's output are the channels, found by following an image through a forward pass.

Stages give (N, C, H, W) in most networks, (N, H, W, C) in Swin and its kin, tokens (N, T, D) or (T, N, D), and rows of
positions (N, C, L) in some. No shape tells them apart for certain; where the rows and columns of the image went does.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lwexplain.errors import ModelError
from lwexplain.models.modules import first_tensor
from lwexplain.models.receptive_field import ImageTracer
from lwexplain.models.receptive_field_trace import Trace, trace_of_image


@dataclass(frozen=True)
class Layout:
    """How an output is put in order: (N, C, H, W), (N, T, D) or (N, D).

    ``order`` are the dimensions as they stand, in that order, None where they do already. ``note`` says what is only
    assumed.
    """

    order: tuple[int, ...] | None = None
    note: str = ""

    def in_order(self, output: Tensor) -> Tensor:
        """The output with its dimensions in order; a view."""
        return output if self.order is None else output.permute(self.order)

    def as_given(self, ordered: Tensor) -> Tensor:
        """The reverse of ``in_order``."""
        if self.order is None:
            return ordered
        return ordered.permute([self.order.index(dim) for dim in range(len(self.order))])


def layouts_of(
    forward: Callable[[Tensor], object], modules: Mapping[str, nn.Module], image: Tensor, within: nn.Module
) -> dict[tuple[int, int], Layout]:
    """The layout of every call of the given ``modules`` in a forward pass of one ``image`` (1, ...).

    Keys are (id of the module, which of its calls, from 1). ``within`` is the whole network, whose layers tell where
    the image was lost sight of. Put it into evaluation mode before. What the forward raises is passed on; raises
    ModelError where a module's output is not that of one sample a row.
    """
    watch = _Watch()
    tracer = ImageTracer()
    if image.ndim == 4:
        tracer.traces[image] = trace_of_image(image)
    handles = [part.register_forward_hook(watch.note_layer) for part in within.modules()]
    names = {id(module): name for name, module in modules.items()}
    found: dict[tuple[int, int], Layout] = {}
    calls: Counter[int] = Counter()

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        calls[id(module)] += 1
        tensor = first_tensor(output)
        if tensor is not None:
            trace = tracer.traces.get(tensor)
            found[id(module), calls[id(module)]] = watch.layout(names[id(module)], tensor, trace)

    try:
        handles += [module.register_forward_hook(leave) for module in {id(m): m for m in modules.values()}.values()]
        with torch.no_grad(), every_operation_visible(), tracer:
            forward(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextlib.contextmanager
def every_operation_visible() -> Iterator[None]:
    """Keep attention from its fused kernels, which nothing that watches operations can look into."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class _Watch:
    """Remembers which layers gave an output of which shape, and decides from that and the trace of the image."""

    def __init__(self) -> None:
        self.layers: dict[tuple[int, ...], int] = {}  # shape of a layer's output -> the dimension of its channels

    def note_layer(self, layer: nn.Module, _: Any, output: Any) -> None:
        channels = _channels_of(layer, tuple(output.shape)) if isinstance(output, Tensor) else None
        if channels is not None:
            self.layers[tuple(output.shape)] = channels

    def layout(self, name: str, output: Tensor, trace: Trace | None) -> Layout:
        shape = tuple(output.shape)
        if output.ndim not in (3, 4):
            return Layout()
        axes = [frozenset[int]()] * output.ndim if trace is None else [trace.along(d) for d in range(output.ndim)]
        if shape[0] != 1:
            if output.ndim == 3 and shape[1] == 1 and not axes[1]:
                return Layout((1, 0, 2))  # tokens (T, N, D)
            raise ModelError(
                f"stage {name!r} gives {shape} for one image: its first dimension is not that of the samples "
                "(windows of an image, say); choose the module around it"
            )
        channels = _channels(shape, axes)
        if channels is None and shape in self.layers:
            channels = self.layers[shape]
        if channels is None:
            usual = "channels first" if output.ndim == 4 else "tokens first"
            return Layout(note=f"{usual} is assumed of the output {shape}: no operation of the forward pass says it")
        rest = [dim for dim in range(1, output.ndim) if dim != channels]
        if output.ndim == 3:
            order = (0, *rest, channels)
        else:
            turned = axes[rest[0]] == {1} and axes[rest[1]] == {0}
            order = (0, channels, *(reversed(rest) if turned else rest))
        return Layout(None if order == tuple(range(output.ndim)) else order)


def _channels(shape: tuple[int, ...], axes: list[frozenset[int]]) -> int | None:
    """The one dimension behind the first along which one does not move over the image; None where that is unclear."""
    dims = range(1, len(shape))
    still = [dim for dim in dims if not axes[dim]]
    if len(still) > 1:  # positions that were brought together are of size 1
        still = [dim for dim in still if shape[dim] > 1]
    if len(still) == 1:
        return still[0]
    both = [dim for dim in dims if axes[dim] == {0, 1}]  # pixels that were moved into the channels
    others = {axes[dim] for dim in dims if dim not in both}
    if len(shape) == 4 and len(both) == 1 and others == {frozenset({0}), frozenset({1})}:
        return both[0]
    return None


def _channels_of(layer: nn.Module, shape: tuple[int, ...]) -> int | None:
    """The dimension of the channels in the output of a layer that has one by its kind."""
    if len(shape) < 3:
        return None
    if isinstance(layer, nn.Linear):
        return len(shape) - 1
    if isinstance(layer, (_ConvNd, _NormBase, nn.GroupNorm)):
        return 1
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:  # also where a subclass normalises dim 1
        fitting = [dim for dim in (1, len(shape) - 1) if shape[dim] == layer.normalized_shape[0]]
        return fitting[0] if len(fitting) == 1 else None
    return None
