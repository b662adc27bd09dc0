"""Copies of a network that share its tensors: their structure may be changed without touching the network."""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lwexplain.errors import ModelError


def copy_structure(model: nn.Module) -> nn.Module:
    """A copy of all modules of ``model`` with its own parameters, buffers and other tensors, without the wrappers of
    ``torch.compile``. Raises ModelError where a part cannot be copied."""
    memo: dict[int, Any] = {}
    try:
        for part in model.modules():
            for value in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
                if isinstance(value, Tensor):
                    memo[id(value)] = value
            if isinstance(part, torch.jit.ScriptModule):
                memo[id(part)] = part  # its tensors cannot be shared with a copy
        for part in list(model.modules()):
            if isinstance(inner := getattr(part, "_orig_mod", None), nn.Module):
                memo[id(part)] = copy_module(inner, memo)
        copied = copy_module(model, memo)
    except Exception as error:  # any object may hang on a module
        raise ModelError(f"the structure of {type(model).__name__} cannot be copied: {error}") from None
    for part in copied.modules():
        if part._compiled_call_impl is not None:
            part._compiled_call_impl = None
    return copied


def copy_module(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of ``model``, where ``memo`` (id -> copy) says what is not copied.

    Objects without a copy that hang on a module (a lock, a logger, an open file) are shared with it.
    """
    memo = {} if memo is None else memo
    try:
        return copy.deepcopy(model, dict(memo))
    except Exception:  # any object may hang on a module
        for part in model.modules():
            for value in vars(part).values():
                _share_uncopyable(value, memo, set())
        return copy.deepcopy(model, memo)


def _share_uncopyable(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Note the objects in ``value``, which may be a container, that have no copy."""
    if isinstance(value, (nn.Module, MethodType)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        for item in list(value.values() if isinstance(value, dict) else value):
            _share_uncopyable(item, memo, seen)
        return
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        memo[id(value)] = value


def name_without_compiled(name: str) -> str:
    """The name of a module in a copy, where the wrappers of ``torch.compile`` are gone."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class _TouchedTensors(TorchDispatchMode):
    """While open, notes the storages that operations read or write."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and torch._C._has_storage(leaf):
                self.storages.add(leaf.untyped_storage()._cdata)
        return func(*args, **(kwargs or {}))

    def touched(self, tensor: Tensor | None) -> bool:
        return tensor is not None and (
            not torch._C._has_storage(tensor) or tensor.untyped_storage()._cdata in self.storages
        )


def keep_used_tensors(network: nn.Module, run: Callable[[], object]) -> None:
    """Leave only those parameters registered in ``network`` that ``run`` computes with, and the buffers beside tensors
    of which it uses one.

    The others stay in their places as plain attributes, for code that asks for their dtype or device.
    """
    with torch.no_grad(), _TouchedTensors() as watch:
        run()
    for part in network.modules():
        if isinstance(part, torch.jit.ScriptModule):
            continue
        is_used = any(watch.touched(tensor) for tensor in (*part._parameters.values(), *part._buffers.values()))
        for kind in (part._parameters, part._buffers):
            unused = [
                name
                for name, tensor in kind.items()
                if tensor is not None and not watch.touched(tensor) and not (is_used and kind is part._buffers)
            ]
            for name in unused:
                vars(part)[name] = kind.pop(name)
                part._non_persistent_buffers_set.discard(name)
