"""Forward hooks on named modules that leave no trace behind."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lwexplain.errors import CaptureError
from lwexplain.registry import nearest


class _Enough(BaseException):
    """Ends a forward pass once every stage has fired; no ``except Exception`` of a model may swallow it."""


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s wrapper, whose hooks fire reliably, or ``model`` itself."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def find_modules(
    model: nn.Module, stages: Sequence[str], modules: Mapping[str, nn.Module] | None = None
) -> dict[str, nn.Module]:
    """The module of each stage, from ``modules`` where given, else by module path in ``model``.

    Raises CaptureError for no stage, a stage named twice, and an unknown stage (with the nearest names).
    """
    listed = isinstance(stages, Sequence) and not isinstance(stages, str)
    if not listed or not stages or not all(isinstance(name, str) for name in stages):
        raise CaptureError(f"stages is {stages!r}; expected a list of at least one module name")
    twice = sorted({name for name in stages if list(stages).count(name) > 1})
    if twice:
        raise CaptureError(f"stages named more than once: {', '.join(twice)}")
    known = dict(modules) if modules is not None else dict(model.named_modules())
    found = {}
    for name in stages:
        if name not in known:
            try:  # a path through a module that is registered under two names
                known[name] = model.get_submodule(name) if modules is None else known[name]
            except (AttributeError, KeyError):
                names = [key for key in known if key]
                raise CaptureError(f"no stage {name!r} in the model; {nearest(name, names)}") from None
        found[name] = unwrap(known[name])
    return found


def first_tensor(output: Any) -> torch.Tensor | None:
    """The tensor a module's output stands for: itself, the value named ``out``, or the first one inside."""
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        if isinstance(output.get("out"), torch.Tensor):
            return output["out"]
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return next((tensor for item in output if (tensor := first_tensor(item)) is not None), None)
    return None


def as_parameters(x: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """``x`` in the dtype of the floating-point parameters of ``model`` where these share one, so that a model in half
    precision takes float32 images. Integers stay as they are, and so do images for a model of mixed dtypes."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return x.to(dtypes.pop()) if len(dtypes) == 1 and x.is_floating_point() else x


class StageTap:
    """Hooks on the modules of stages; calls ``receive(stage, raw output)`` inside the forward pass.

    ``receive`` must copy what it keeps: the next layer may overwrite the output in place. Use as a context
    manager, and ``run`` for each forward pass. The first pass goes to the end of the model to count how
    often each module is called; later ones stop as soon as every stage has fired.
    A stage fires when its module returns, so a module fires after those inside it; the stages must be named in
    that order, for it is what their depth means.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        receive: Callable[[str, torch.Tensor], None],
    ) -> None:
        self.modules = dict(modules)
        self.receive = receive
        self.calls = dict.fromkeys(self.modules, 0)
        self.order: list[str] = []
        self._handles: list[Any] = []
        self.counted = False
        self._inside = False

    def __enter__(self) -> "StageTap":
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def run(self, model: nn.Module, x: torch.Tensor) -> None:
        """One forward pass of ``x``, cast by ``as_parameters``; raises CaptureError for a stage that did not fire
        exactly once, and for stages that fired in another order than they are named."""
        self.calls = dict.fromkeys(self.modules, 0)
        self.order.clear()
        with contextlib.suppress(_Enough):
            model(as_parameters(x, model))
        for name, calls in self.calls.items():
            if calls == 0:
                raise CaptureError(
                    f"stage {name!r} was not called in the forward pass; it may be unused, replaced, or "
                    f"called by "
                    "its method instead of as a module; choose another stage"
                )
            if calls > 1:
                raise CaptureError(
                    f"stage {name!r} is called {calls} times in one forward pass, so its output is "
                    f"ambiguous; "
                    "choose the block around it, or give each call its own module"
                )
        if self.order != list(self.modules):
            raise CaptureError(
                f"the stages run in another order than named ({', '.join(self.modules)}), and a stage's depth is its "
                f"place in that order; name them as {self.order}"
            )
        self.counted = True

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._inside:  # a head that uses a hooked module is not a call of the model
                return
            self.calls[name] += 1
            if self.calls[name] == 1:
                self.order.append(name)
                tensor = first_tensor(output)
                if tensor is None:
                    raise CaptureError(f"stage {name!r} returned {type(output).__name__} without a tensor in it")
                self._inside = True
                try:
                    self.receive(name, tensor)
                finally:
                    self._inside = False
            if self.counted and all(self.calls.values()):
                raise _Enough

        return hook


@contextlib.contextmanager
def undisturbed(modules: Iterable[nn.Module], device: torch.device | str | None = None) -> Iterator[None]:
    """Evaluation mode and ``device`` for ``modules`` inside; mode, device and random state as before after
    it.

    Modes are set flag by flag: a ``train()`` that a model overrides is not called. Compiled parts run
    eagerly, for their hooks would be ignored. Raises CaptureError where modules on several devices would
    have to move.
    """
    everything = {id(part): part for module in modules for part in module.modules()}
    modes = [(part, part.training) for part in everything.values()]
    compiled = any(hasattr(p, "_orig_mod") or p._compiled_call_impl is not None for p in everything.values())
    away = _away_from(everything.values(), device)
    rng = _rng_state()
    try:
        for part, _ in modes:
            part.training = False
        for part, _ in away:
            _move(part, device)
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        for part, home in away:
            _move(part, home)
        for part, mode in modes:
            part.training = mode
        _restore_rng(rng)


def _away_from(parts: Iterable[nn.Module], device: torch.device | str | None) -> list[tuple[nn.Module, torch.device]]:
    """Modules whose own tensors do not lie on ``device``, each with the one device they lie on."""
    if device is None:
        return []
    wanted = torch.empty(0, device=device).device
    away = []
    for part in parts:
        places = {t.device for t in (*part._parameters.values(), *part._buffers.values()) if t is not None}
        if len(places) > 1:
            raise CaptureError(
                f"{type(part).__name__} lies on several devices {sorted(map(str, places))}; move it first"
            )
        if places and places != {wanted}:
            away.append((part, places.pop()))
    return away


def _move(part: nn.Module, device: torch.device | str | None) -> None:
    """Move a module's own parameters and buffers, not those of its children."""
    children, part._modules = part._modules, {}
    try:
        part.to(device)
    finally:
        part._modules = children


def _rng_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _restore_rng(state: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
