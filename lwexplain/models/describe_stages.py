"""What is at each stage of any network, counted in one forward pass: its module, its output, its size and its work."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lwexplain.arguments import user_code
from lwexplain.errors import CaptureError
from lwexplain.models.calling import call_with_images
from lwexplain.models.layout import layouts_of
from lwexplain.models.modules import find_modules, first_tensor, in_evaluation, path_and_call, without_gradients


@dataclass(frozen=True)
class StageDescription:
    """A stage: ``module`` is the class of its module, ``shape`` that of its output for one image, in order:
    (C, H, W), (T, D) or (D,).

    ``parameters`` and ``flops`` (a multiplication and an addition count as two) are of all that runs from the end of
    the stage before to the end of this one; ``parameters_to_here`` and ``flops_to_here`` of all up to its end.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    parameters: int
    parameters_to_here: int
    flops: int
    flops_to_here: int


def describe_stages(model: nn.Module, image: Tensor, stages: Sequence[str]) -> list[StageDescription]:
    """Describe the ``stages``, named in the order in which they run on an ``image`` (1, C, H, W).

    The model is left as it was. Raises CaptureError for a stage that does not run, or not in this order, ModelError for
    one whose output is not that of an image a row.
    """
    modules = find_modules(model, stages)
    place = next((parameter.device for parameter in model.parameters()), image.device)
    with in_evaluation(model), FlopCounterMode(display=False) as counter, _ParametersInUse(model) as in_use:
        without_gradients(model)
        ends = _Ends(modules, counter, in_use)
        with user_code(f"{type(model).__name__}, given an image of shape {tuple(image.shape[1:])},"):
            layouts = layouts_of(lambda x: call_with_images(model, x), modules, image[:1].to(place), within=model)
    found: list[StageDescription] = []
    before = _End("", torch.empty(0), 0, 0, 0)
    for name in stages:
        end = ends.found.get(name)
        if end is None:
            raise CaptureError(f"stage {name!r} gives no tensor in a forward pass; name a module that runs")
        if end.place < before.place:
            raise CaptureError(f"stage {name!r} runs before {before.name!r}, which is named first; change their order")
        layout = layouts[id(modules[name]), path_and_call(name)[1] or 1]
        found.append(
            StageDescription(
                name=name,
                module=type(modules[name]).__name__,
                shape=tuple(layout.in_order(end.output).shape[1:]),
                parameters=end.parameters - before.parameters,
                parameters_to_here=end.parameters,
                flops=end.flops - before.flops,
                flops_to_here=end.flops,
            )
        )
        before = end
    return found


@dataclass(frozen=True)
class _End:
    """The end of a stage: its output, how many ended before it, and what had been used and done by then."""

    name: str
    output: Tensor
    place: int
    parameters: int
    flops: int


class _Ends:
    """Notes the ends of the stages as the pass goes by; of a module that runs several times, that of the call named."""

    def __init__(self, modules: dict[str, nn.Module], counter: FlopCounterMode, in_use: "_ParametersInUse") -> None:
        self.modules, self.counter, self.in_use = modules, counter, in_use
        self.found: dict[str, _End] = {}
        self.calls: Counter[int] = Counter()
        for module in {id(module): module for module in modules.values()}.values():
            module.register_forward_hook(self.note)  # in_evaluation takes the hooks away

    def note(self, module: nn.Module, _: Any, output: Any) -> None:
        self.calls[id(module)] += 1
        tensor = first_tensor(output)
        for name in [name for name, own in self.modules.items() if own is module]:
            if tensor is not None and (path_and_call(name)[1] or 1) == self.calls[id(module)]:
                flops = self.counter.get_total_flops()
                self.found[name] = _End(name, tensor, len(self.found), self.in_use.count, flops)


class _ParametersInUse(TorchDispatchMode):
    """Counts the numbers in the parameters that have been used so far."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.waiting = {id(parameter): parameter for parameter in model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, Tensor) and id(leaf) in self.waiting:
                self.count += self.waiting.pop(id(leaf)).numel()
        return func(*args, **(kwargs or {}))
