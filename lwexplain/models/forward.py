"""What a module is given and what it returns in a forward pass, in whatever form."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lwexplain.models.modules import in_evaluation


class Enough(BaseException):
    """Ends a forward pass from within a hook; no ``except Exception`` of a model may swallow it."""


def path_and_call(name: str) -> tuple[str, int | None]:
    """``relu#2`` -> ("relu", 2); without a call number (name, None)."""
    path, mark, number = name.rpartition("#")
    return (path, int(number)) if mark and number.isdecimal() and int(number) > 0 else (name, None)


def first_tensor(output: Any) -> Tensor | None:
    """The tensor a module's output stands for: itself, the value named ``out``, or the first one inside."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        if isinstance(output.get("out"), Tensor):
            return output["out"]
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return next((tensor for item in output if (tensor := first_tensor(item)) is not None), None)
    return None


def as_parameters(x: Tensor, model: nn.Module) -> Tensor:
    """``x`` in the dtype that ``model`` computes with, so that a model in half precision takes float32 images.

    That is the dtype of its floating-point parameters; where these are of several, that of the first layer which the
    images reach, found by a forward pass of one of them. Integers stay as they are.
    """
    if not x.is_floating_point():
        return x
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(dtypes) > 1 and len(x):
        return x.to(_dtype_of_first_layer(model, x[:1]))
    return x.to(dtypes.pop()) if len(dtypes) == 1 else x


def _dtype_of_first_layer(model: nn.Module, image: Tensor) -> torch.dtype:
    """The dtype that the images must have: their own, where the model casts them before its first layer."""
    found = [image.dtype]

    def meet(layer: nn.Module, args: Any, kwargs: Any) -> None:
        given = first_tensor([args, kwargs])
        own = next(parameter.dtype for parameter in layer.parameters(recurse=False) if parameter.is_floating_point())
        if given is not None and given.is_floating_point() and given.dtype != own:
            found.append(own)
        raise Enough

    with in_evaluation(model), torch.no_grad():
        for layer in model.modules():
            own = [parameter for parameter in layer.parameters(recurse=False) if parameter.is_floating_point()]
            if own and not list(layer.children()):
                layer.register_forward_pre_hook(meet, with_kwargs=True)
        with contextlib.suppress(Enough, Exception):  # what the model itself raises comes again when it is really asked
            model(image)
    return found[-1]
