"""What forward hooks see at the stages of an untouched network: the truth that every cut is held against."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lwexplain.errors import CaptureError, ModelError
from lwexplain.models.calling import call_with_images
from lwexplain.models.image_argument import pass_images
from lwexplain.models.layout import Layout, layouts_of
from lwexplain.models.modules import as_parameters, find_modules, first_tensor, path_and_call, unwrap
from lwexplain.models.outputs import logits_in
from lwexplain.models.tokens import TokenGrid, watching_tokens

PRECISION = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far a cut may be off, as a share of the largest value; the same operations in the same order round alike."""


@dataclass(frozen=True)
class Seen:
    """One batch of images, the output of every stage for it in order, and the logits."""

    images: Tensor
    outputs: list[Tensor]
    logits: Tensor | None


@dataclass(frozen=True)
class Observation:
    """A network in evaluation mode as hooks see it.

    ``batches`` are of several sizes. ``layouts`` and ``grids`` say how the output of each stage lies, and where the
    patches are among its tokens. ``no_logits`` says why there are none.
    """

    model: nn.Module
    names: list[str]
    batches: list[Seen]
    layouts: list[Layout]
    grids: list[TokenGrid | None]
    num_classes: int
    no_logits: str = ""

    @property
    def images(self) -> Tensor:
        return self.batches[0].images


def observe(model: nn.Module, names: Sequence[str], images: Tensor, num_classes: int) -> Observation:
    """Run ``model``, which is in evaluation mode, on ``images`` (N, C, H, W), on one of them, and on one more than N.

    Raises ModelError for an unknown stage, one that does not run, runs several times, or before one named earlier, and
    for images that the model cannot take.
    """
    try:
        modules = find_modules(model, names)
    except CaptureError as error:
        raise ModelError(str(error)) from None
    parameter = next(model.parameters(), None)
    images = as_parameters(images.detach().to(images.device if parameter is None else parameter.device), model)
    image = images[:1].clone()
    more = torch.cat([images, images.flip(-1)])[: len(images) + 1]
    with torch.no_grad():
        try:
            batches, why = _watched(model, modules, [images, image, more])
            size = (image.shape[2], image.shape[3]) if image.ndim == 4 else (0, 0)
            with watching_tokens(modules, size) as grids_of:
                layouts = layouts_of(partial(pass_images, model), modules, image, within=model)
            grids = grids_of(layouts) if image.ndim == 4 else {}
        except (ModelError, CaptureError) as error:
            raise ModelError(str(error)) from None
        except Exception as error:  # somebody's code raises anything
            where = f"{type(model).__name__} cannot take images of shape {tuple(images.shape[1:])}"
            raise ModelError(f"{where}: {error}") from None
    calls = [(id(unwrap(modules[name])), path_and_call(name)[1] or 1) for name in names]
    lying = [layouts[call] for call in calls]
    ordered = [
        Seen(seen.images, [layout.in_order(raw) for layout, raw in zip(lying, seen.outputs, strict=True)], seen.logits)
        for seen in batches
    ]
    return Observation(model, list(names), ordered, lying, [grids.get(call) for call in calls], num_classes, why)


def _watched(model: nn.Module, modules: Mapping[str, nn.Module], batches: Sequence[Tensor]) -> tuple[list[Seen], str]:
    """The raw outputs for each batch, and why there are no logits."""
    wanted = {(id(module), path_and_call(name)[1] or 1): name for name, module in modules.items()}
    calls: Counter[int] = Counter()
    outputs: dict[str, Tensor] = {}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        calls[id(module)] += 1
        name = wanted.get((id(module), calls[id(module)]))
        if name is not None:
            tensor = first_tensor(output)
            if tensor is None:
                raise ModelError(f"stage {name!r} returned {type(output).__name__} without a tensor in it")
            outputs[name] = tensor.detach().clone()

    handles = [module.register_forward_hook(look) for module in {id(m): m for m in modules.values()}.values()]
    seen, why = [], ""
    try:
        for images in batches:
            calls.clear()
            outputs.clear()
            torch.manual_seed(0)
            returned = call_with_images(model, images.clone())
            _check_calls(modules, calls, list(outputs))
            try:
                logits = logits_in(returned, len(images)).detach().clone()
            except ModelError as error:
                logits, why = None, str(error)
            seen.append(Seen(images, [outputs[name] for name in modules], logits))
    finally:
        for handle in handles:
            handle.remove()
    return seen, why


def _check_calls(modules: Mapping[str, nn.Module], calls: Mapping[int, int], order: list[str]) -> None:
    for name, module in modules.items():
        count, (path, call) = calls[id(module)], path_and_call(name)
        if count == 0:
            raise ModelError(f"stage {name!r} was not called in the forward pass; choose another stage")
        if call is None and count > 1:
            raise ModelError(
                f"module {name!r} runs {count} times in a forward; name one of its calls, {path}#1 to #{count}"
            )
        if call is not None and call > count:
            raise ModelError(f"module {path!r} runs only {count} times in a forward; there is no {name!r}")
    if order != list(modules):
        raise ModelError(f"the stages run in another order than named; name them as {order}")


def is_same(found: object, wanted: Tensor) -> bool:
    """Whether a cut gives what a hook has seen, but for rounding."""
    if not isinstance(found, Tensor) or found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    finite = wanted[torch.isfinite(wanted)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    within = PRECISION.get(wanted.dtype, 1e-2) * largest
    return torch.allclose(found, wanted, rtol=0.0, atol=within, equal_nan=True)
