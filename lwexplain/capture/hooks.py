"""Forward hooks on named modules that leave no trace behind."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from lwexplain.arguments import shown, user_code
from lwexplain.errors import CaptureError, ModelError
from lwexplain.models.image_argument import pass_images
from lwexplain.models.layout import Layout, layouts_of
from lwexplain.models.modules import (
    Enough,
    as_parameters,
    find_modules,
    first_tensor,
    in_evaluation,
    path_and_call,
    unwrap,
)
from lwexplain.models.token_reading import TokenReading, read_by_head
from lwexplain.models.tokens import Call, TokenGrid, watching_tokens


class StageTap:
    """Hooks on the modules of stages; calls ``receive(call, raw output)`` inside the forward pass.

    ``receive`` must copy what it keeps: the next layer may overwrite the output in place; ``layouts`` says how the
    output of a call lies, ``grids`` where the patches are among its tokens, ``reading`` what the model's own head reads
    of them (given, or found where some tokens are no patches). Use as a context manager, and ``run`` for
    each forward pass. The first pass goes to the end of the model and finds ``stages``, the stage of each call, in the
    order in which they fire: a module called once is one stage under its own name; one called several times is one
    stage for each call, ``NAME#1``, ``NAME#2``, ..., of which a request may also name a single one. Later passes stop
    as soon as every stage has fired, unless they are to go ``to_the_end``. A stage fires when its module returns, so a
    module fires after those inside it; the stages must be named in that order, for it is what their depth means.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        receive: Callable[[Call, torch.Tensor], None],
        *,
        layouts: Mapping[Call, Layout] | None = None,
        reading: TokenReading | None = None,
        to_the_end: bool = False,
    ) -> None:
        self.modules = dict(modules)
        self.receive = receive
        self.to_the_end = to_the_end
        self.stages: dict[Call, str] = {}
        self.layouts: Mapping[Call, Layout] | None = layouts
        self.grids: Mapping[Call, TokenGrid] = {}
        self.reading = reading
        self._calls: dict[int, int] = {}
        self._fired: list[Call] = []
        self._handles: list[Any] = []
        self._inside = False

    def __enter__(self) -> "StageTap":
        for module in {id(module): module for module in self.modules.values()}.values():
            self._handles.append(module.register_forward_hook(self._hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def run(self, model: nn.Module, x: torch.Tensor) -> Any:
        """One forward pass of ``x``, cast by ``as_parameters``; what the model returned, None where the pass stopped.

        Raises CaptureError for a stage that does not fire, a call that is not made, stages that fire in another order
        than they are named, and a later pass in which other stages fire than in the first.
        """
        given = as_parameters(x, model)
        if self.layouts is None:
            self.layouts, self.grids = self._layouts(model, given)
            if self.reading is None and any(grid.others for grid in self.grids.values()):
                self.reading = self._reading(model, given)
        self._calls, self._fired = {}, []
        returned = None
        with contextlib.suppress(Enough), user_code(f"the model, given {shown(given)},"):
            returned = pass_images(model, given)
        if not self.stages:
            self.stages = self._stages_of_the_first_pass()
        missing = [name for call, name in self.stages.items() if call not in self._fired]
        if missing:
            raise CaptureError(
                f"stage {missing[0]!r} ran for the first batch and did not for a later one; the model takes another "
                "path for other images: choose stages that every image passes"
            )
        return returned

    def name_of(self, call: Call) -> str:
        """The stage that a call belongs to, as it was asked for."""
        return next(name for name, module in self.modules.items() if id(module) == call[0])

    def _layouts(self, model: nn.Module, x: torch.Tensor) -> tuple[dict[Call, Layout], dict[Call, TokenGrid]]:
        """How the output of each call lies, and the patches among its tokens; as usual where one image alone cannot
        pass."""
        self._inside = True
        try:
            size = (x.shape[2], x.shape[3]) if x.ndim == 4 else (0, 0)
            with watching_tokens(self.modules, size) as grids_of:
                layouts = layouts_of(partial(pass_images, model), self.modules, x[:1].detach().clone(), within=model)
            return layouts, grids_of(layouts) if x.ndim == 4 else {}
        except ModelError as error:
            raise CaptureError(str(error)) from None
        except Exception:  # the pass of the whole batch tells what is wrong with the model, if anything
            return {}, {}
        finally:
            self._inside = False

    def _reading(self, model: nn.Module, x: torch.Tensor) -> TokenReading:
        self._inside = True
        try:
            return read_by_head(model, tuple(x.shape[1:]))
        finally:
            self._inside = False

    def _stages_of_the_first_pass(self) -> dict[Call, str]:
        wanted: dict[Call, str] = {}
        requested: dict[Call, str] = {}
        for name, module in self.modules.items():
            for call, stage in self._calls_of(name, module).items():
                if call in wanted:
                    raise CaptureError(f"stages {wanted[call]!r} and {stage!r} are the same call of one module")
                wanted[call], requested[call] = stage, name
        firing = [call for call in self._fired if call in wanted]
        order = list(dict.fromkeys(requested[call] for call in firing))
        if order != list(self.modules):
            raise CaptureError(
                f"the stages run in another order than named ({', '.join(self.modules)}), and a stage's depth is its "
                f"place in that order; name them as {order}"
            )
        return {call: wanted[call] for call in firing}

    def _calls_of(self, name: str, module: nn.Module) -> dict[Call, str]:
        """The calls that a requested name stands for, each with the name of its stage."""
        calls, number = self._calls.get(id(module), 0), path_and_call(name)[1]
        if calls == 0:
            raise CaptureError(
                f"stage {name!r} was not called in the forward pass; it may be unused, replaced, or called by its "
                "method instead of as a module; choose another stage"
            )
        if number is not None and number > calls:
            raise CaptureError(f"stage {name!r}: its module is called only {calls} times in one forward pass")
        if number is not None or calls == 1:
            return {(id(module), number or 1): name}
        return {(id(module), k): f"{name}#{k}" for k in range(1, calls + 1)}

    def _hook(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        if self._inside:  # a head that uses a hooked module is not a call of the model
            return
        number = self._calls.get(id(module), 0) + 1
        self._calls[id(module)] = number
        call = (id(module), number)
        if self.stages and call not in self.stages:
            return
        self._fired.append(call)
        tensor = first_tensor(output)
        if tensor is None:
            raise CaptureError(f"stage {self.name_of(call)!r} returned {type(output).__name__} without a tensor in it")
        self._inside = True
        try:
            self.receive(call, tensor)
        finally:
            self._inside = False
        if self.stages and len(self._fired) == len(self.stages) and not self.to_the_end:
            raise Enough


def output_of(
    model: nn.Module,
    stage: str,
    x: torch.Tensor,
    *,
    device: torch.device | str | None = None,
    layout: Layout | None = None,
) -> torch.Tensor:
    """The output of a stage for images ``x``, with gradients to them where they are wanted.

    It is put in order, (N, C, H, W) or (N, T, D), as ``layout`` says, which is found where it is not given. Runs the
    model in evaluation mode as far as the stage and leaves it as it was; raises CaptureError as a capture does.
    """
    model = unwrap(model)
    modules = find_modules(model, [stage])
    number = path_and_call(stage)[1] or 1
    wanted = (id(modules[stage]), number)
    found: list[torch.Tensor] = []

    def receive(call: Call, raw: torch.Tensor) -> None:
        if call == wanted:
            found.append(raw.clone())
            raise Enough

    tap = StageTap(modules, receive, layouts=None if layout is None else {wanted: layout})
    with in_evaluation(model, device=device), tap, contextlib.suppress(Enough):
        tap.run(model, x)
    return (tap.layouts or {}).get(wanted, Layout()).in_order(found[0])
