"""Whether a model that somebody passes in can be run and looked into."""

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from lwexplain.arguments import shortened, shown
from lwexplain.errors import ModelError


def check_model(model: Any) -> nn.Module:
    """The model; raises ModelError where it is no module, or one that cannot run or whose calls cannot be followed.

    That is a class in place of an object of it, a TorchScript module, parameters that have no shape or no values yet
    (lazy modules, the device ``meta``), and layers with weights in integers.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise ModelError(f"the model is {shown(model)}; pass an object of it: {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is {shown(model)}; expected a torch.nn.Module, such as what a constructor returns")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "the model is a TorchScript module, whose calls hooks do not see; pass the model it was made from"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        place = f"{shortened(name)!r} of the model"
        if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
            raise ModelError(f"{place} has no shape yet; run one batch through the model first, as lazy layers need")
        if tensor.is_meta:
            raise ModelError(f"{place} lies on the device 'meta' and has no values; load weights onto a device first")
    for name, module in model.named_modules():
        if is_quantised(module):
            raise ModelError(
                f"{shortened(name)!r} of the model is quantised ({type(module).__name__}); pass the model as it was "
                "before quantisation, in floating point"
            )
    return model


def is_quantised(module: nn.Module) -> bool:
    """Whether a module computes with weights in integers."""
    home = type(module).__module__
    return home.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized"))
