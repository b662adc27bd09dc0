"""The state of a module that work with it may change, and how it is put back."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy


class ModuleState:
    """One module without its children: what is put back on it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kind = type(module)
        self.training = module.training  # of a wrapper, that of the module inside
        self.full_hooks = module._is_full_backward_hook
        self.attributes = dict(vars(module))
        self.hooks = {name: dict(hooks) for name, hooks in _hooks_of(module).items()}
        self.own = [(d, dict(d)) for d in (module._parameters, module._buffers) if isinstance(d, dict)]
        present = [buffer for buffer in module.buffers(recurse=False) if not is_lazy(buffer)]
        self.values = [(buffer, buffer.detach().clone()) for buffer in present]

    def restore(self) -> None:
        module, now, before = self.module, vars(self.module), self.attributes
        module.training = self.training
        if type(module) is not self.kind:
            return  # a lazy module that has become another one: there is no way back
        module._is_full_backward_hook = self.full_hooks
        for name, hooks in _hooks_of(module).items():
            hooks.clear()
            hooks.update(self.hooks.get(name, {}))
        for tensors, objects in self.own:
            _make_equal(tensors, objects)
        for buffer, values in self.values:
            _put_values(buffer, values)
        for name in [name for name, value in {**before, **now}.items() if isinstance(value, (Tensor, fx.Proxy))]:
            if name in before:
                now[name] = before[name]
            else:
                del now[name]


@dataclass(frozen=True)
class ParameterState:
    """A parameter and what is put back on it. ``data`` is its storage, not a copy: it stays where it was while the
    parameter is moved."""

    parameter: nn.Parameter
    data: Tensor
    requires_grad: bool
    grad: Tensor | None

    def restore(self) -> None:
        parameter = self.parameter
        if _place_of(parameter) != _place_of(self.data):
            parameter.data = self.data
        if parameter.requires_grad != self.requires_grad:
            parameter.requires_grad_(self.requires_grad)
        parameter.grad = self.grad


def _place_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.device, tensor.dtype, tensor.shape, tensor.layout, tensor.data_ptr() if _is_dense(tensor) else None


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta


def _hooks_of(module: nn.Module) -> dict[str, dict[Any, Any]]:
    """The dictionaries of a module's hooks by the names of their attributes."""
    return {name: value for name, value in vars(module).items() if "_hooks" in name and isinstance(value, dict)}


def _make_equal(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Put the very objects of ``before`` into the dictionary ``now``; one that holds them already is left alone."""
    if list(now) != list(before) or any(now[name] is not value for name, value in before.items()):
        now.clear()
        now.update(before)


def _put_values(tensor: Tensor, values: Tensor) -> None:
    """Write ``values`` into a tensor unless it holds them; an untouched one stays usable by a graph that needs it."""
    if tensor.is_meta or (_is_dense(tensor) and tensor.shape == values.shape and tensor.equal(values)):
        return
    with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
        if tensor.shape != values.shape:
            tensor.resize_(values.shape)
        tensor.copy_(values)


def random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_random_states(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
