"""What an attribution method is: a network to explain, the base class of methods, and what a method returns."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lwexplain.errors import ModelError, ProbeError
from lwexplain.models.calling import call_with_images
from lwexplain.models.layout import Layout, layouts_of
from lwexplain.models.outputs import logits_in
from lwexplain.probes.attribution.memory import Chunker

Tap = Callable[[Tensor], Tensor]


class NotApplicable(Exception):
    """A method has no meaning for this network or layer; the text says why."""


class Network(nn.Module):
    """Images (N, C, H, W) -> logits (N, K) float32 or float64, with one layer on the way that can be tapped.

    The functions it is made of are no submodules: whatever Captum hangs on this module, it does not hang on them.
    ``rounding`` is the relative precision of the logits where it is coarse enough to matter: that of half precision.
    """

    def __init__(self, run: Callable[[Tensor, Tap | None], Tensor], rounding: float = 0.0) -> None:
        super().__init__()
        self.run, self.rounding = run, rounding

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, None)

    def run_with(self, x: Tensor, tap: Tap) -> Tensor:
        """The logits, where the layer's output goes on as ``tap`` returns it."""
        return self.run(x, tap)


def network_of_stage(to_stage: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor]) -> Network:
    """A stage and its head; the tapped layer is the stage's output."""

    def run(x: Tensor, tap: Tap | None) -> Tensor:
        raw = to_stage(x)
        return head((raw if tap is None else tap(raw)).clone())  # a copy, for the head may begin with an in-place layer

    return Network(run)


def network_of_model(model: nn.Module, layer: nn.Module | None = None) -> Network:
    """Any classifier; the tapped layer is one of its modules, hooked only while a tapped forward runs. What is tapped
    has its dimensions in order, (N, C, H, W) or (N, T, D), however the layer gives them.

    Images are cast to the dtype of its parameters, and logits of half precision to float32; where they stand in a
    tuple, mapping or object, ``logits_in`` finds them.
    """

    def logits(x: Tensor) -> Tensor:
        found = logits_in(call_with_images(model, x), len(x))
        return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found

    layouts: list[Layout] = []

    def run(x: Tensor, tap: Tap | None) -> Tensor:
        if tap is None:
            return logits(x)
        if layer is None:
            raise NotApplicable("this method explains through a layer, and none is named")
        if not layouts:
            layouts.append(_layout_of(model, layer, x[:1]))
        handle = layer.register_forward_hook(lambda _module, _inputs, output: _through(output, tap, layouts[0]))
        try:
            return logits(x)
        finally:
            handle.remove()

    halves = [p.dtype for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)]
    return Network(run, max((torch.finfo(dtype).eps for dtype in halves), default=0.0))


def _layout_of(model: nn.Module, layer: nn.Module, image: Tensor) -> Layout:
    """The order of the dimensions that the layer's output has."""
    name = next((name for name, module in model.named_modules() if module is layer), "")
    try:
        found = layouts_of(partial(call_with_images, model), {name: layer}, image.detach().clone(), model)
    except ModelError as reason:
        raise NotApplicable(str(reason)) from None
    return found.get((id(layer), 1), Layout())


def _through(output: Any, tap: Tap, layout: Layout) -> Any:
    """What a layer returned with its tensor, in a tuple or list the first one, as ``tap`` returns it."""
    if type(output) in (tuple, list) and output and isinstance(output[0], Tensor):
        return type(output)([_through(output[0], tap, layout), *output[1:]])
    if not isinstance(output, Tensor):
        return tap(output)
    return layout.as_given(tap(layout.in_order(output))).clone()


@dataclass(frozen=True)
class Explanation:
    """Maps (N, H, W) of N images; ``totals`` (N,) what completeness sums up, None where it is not defined, and
    ``steps`` (N,) the gradients spent on each image by methods that follow a path."""

    maps: Tensor
    totals: Tensor | None = None
    steps: Tensor | None = None


class Method:
    """An attribution method. A subclass has a ``name`` and computes the maps of a few images at once.

    ``max_residual`` is the largest mean completeness residual of maps that are valid, None where completeness is not
    defined for the method. ``baseline`` says whether maps are relative to the zero image, ``needs_gradient`` whether
    they are made of gradients at the image.
    """

    name: str
    max_residual: float | None = None
    baseline = False
    needs_gradient = False

    def compute(self, network: Network, x: Tensor, target: Tensor, chunker: Chunker) -> Explanation:
        """Explain images ``x`` (N, C, H, W) towards the classes ``target`` (N,), with at most about ``chunker.size``
        rows in one forward pass; ``x`` may be written to. Raises NotApplicable where the method has no meaning."""
        raise NotImplementedError

    def images_at_once(self, x: Tensor, chunker: Chunker) -> int:
        """How many images ``compute`` is given at once."""
        return chunker.size

    def quick(self) -> "Method":
        """A cheaper version of the method, for checks that compare one map of it with another."""
        return self

    def explain(self, network: Network, images: Tensor, targets: Tensor, chunker: Chunker) -> Explanation:
        """Explain any number of images, chunk by chunk; the maps come back on the CPU in float32.

        Images, and the modules behind the network, stay as they are. Raises ProbeError where one image alone needs
        more memory than there is.
        """

        def compute(x: Tensor, target: Tensor) -> Explanation:
            return self.compute(network, x.detach().clone(), target, chunker)

        with gradients(), quiet_captum():
            parts = chunker.run(compute, images, targets, rows=lambda: self.images_at_once(images, chunker))
        return Explanation(
            torch.cat([part.maps.detach().float().cpu() for part in parts]),
            _concatenate([part.totals for part in parts]),
            _concatenate([part.steps for part in parts]),
        )


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor | None:
    present = [part.detach().cpu() for part in parts if part is not None]
    return torch.cat(present) if present else None


def logits_of(network: Network, images: Tensor, chunker: Chunker) -> Tensor:
    """Logits (N, K), without a graph. Raises ProbeError where the network gives anything else."""
    with torch.no_grad():
        try:
            logits = torch.cat(chunker.run(lambda x: network(x.detach().clone()), images))
        except ModelError as error:
            raise ProbeError(f"attribution: {error}") from None
    if logits.ndim != 2 or len(logits) != len(images):
        raise ProbeError(
            f"attribution: the network gives {tuple(logits.shape)} for {len(images)} images; expected logits (N, K)"
        )
    return logits


def rise_of(network: Network, images: Tensor, targets: Tensor, chunker: Chunker) -> Tensor:
    """f(x) - f(0) (N,) float64 on the CPU, f the logit of the target."""
    rise = logits_of(network, images, chunker) - logits_of(network, torch.zeros_like(images[:1]), chunker)
    return rise.gather(1, targets[:, None])[:, 0].double().cpu()


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients are recorded, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def quiet_captum() -> Iterator[None]:
    """Captum warns of what it does by design (hooks set, gradients required of the given copy)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield
