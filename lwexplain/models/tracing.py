"""The forward of any module as a graph between its stages, in evaluation and in training."""

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from lwexplain.errors import ModelError
from lwexplain.models.calling import image_keyword
from lwexplain.models.outputs import NAMES


@dataclass
class TracedForward:
    """The operations of a forward in order, from ``image`` to ``outputs``: what it returns, flattened."""

    graph: fx.Graph

    @property
    def image(self) -> fx.Node:
        return next(node for node in self.graph.nodes if node.op == "placeholder")

    @property
    def outputs(self) -> list[object]:
        returned = next(node for node in self.graph.nodes if node.op == "output").args[0]
        if isinstance(returned, fx.Node) and isinstance(returned.target, type) and issubclass(returned.target, tuple):
            returned = returned.args  # a named tuple, which stands in the graph as a call of its class
        return tree_leaves(returned)

    def nodes_of(self, returned: fx.Node) -> list[fx.Node]:
        """The operations without those that only other outputs need."""
        others = {node for output in self.outputs if isinstance(output, fx.Node) for node in _ancestors(output)}
        needed = _ancestors(returned)
        nodes = [node for node in self.graph.nodes if node.op not in ("placeholder", "output")]
        return [node for node in nodes if node in needed or node not in others]


def trace_forward(model: nn.Module, stages: Sequence[str], *, training: bool) -> TracedForward:
    """Trace the forward of ``model`` with all parameters but the first at their defaults.

    It is traced into a module only where a stage lies inside it; everything else stays one opaque call, so that its
    control flow and its mode are untouched. What the traced code itself does by ``training`` becomes part of the graph.
    Call it within ``undisturbed``. Raises ModelError where the forward cannot be traced.
    """
    for part in model.modules():
        part.training = training
    for name, part in model.named_modules():
        if _holds_a_stage(name, stages):  # its hooks would be called with what stands for tensors
            part._forward_hooks.clear()
            part._forward_pre_hooks.clear()
    before = random.getstate(), torch.get_rng_state()
    try:
        traced = TracedForward(_BoundaryTracer(stages).trace(model))
        if random.getstate() != before[0] or not torch.equal(torch.get_rng_state(), before[1]):
            raise ModelError(
                f"the forward of {type(model).__name__} draws random numbers between the stages, which a trace would "
                "repeat in every pass; draw them in a module of their own"
            )
        return traced
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"the forward of {type(model).__name__} cannot be traced between the stages ({error}); "
            "name modules of one container (lw.analyze_model captures features without a cut)"
        ) from None


class _BoundaryTracer(fx.Tracer):
    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self.stages = stages

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not _holds_a_stage(module_qualified_name, self.stages)

    def create_arg(self, a: Any) -> Any:
        """Of an object that a forward returns, the logits that it holds under one of the usual names."""
        if not isinstance(a, (fx.Proxy, fx.Node, Tensor, nn.Module, Mapping, Sequence, int, float, type(None))):
            named = [value for name in NAMES if isinstance(value := getattr(a, name, None), fx.Proxy)]
            if named:
                return named[0].node
        return super().create_arg(a)

    def create_args_for_root(
        self, root_fn: Callable[..., object], is_module: bool, concrete_args: object = None
    ) -> tuple[Callable[..., object], list[object]]:
        """The module and its image; parameters that are left out take their defaults, whatever their kind."""
        keyword = image_keyword(self.root)
        name = keyword or list(inspect.signature(root_fn).parameters)[1]
        call = root_fn if keyword is None else partial(_call_by_keyword, root_fn, keyword)
        return call, [self.root, self.create_proxy("placeholder", name, (), {})]


def _call_by_keyword(root_fn: Callable[..., object], keyword: str, model: nn.Module, image: object) -> object:
    return root_fn(model, **{keyword: image})


def _holds_a_stage(name: str, stages: Sequence[str]) -> bool:
    """Whether the module called ``name`` (the model itself is '') holds one of the stages inside."""
    return not name or any(stage.startswith(f"{name}.") for stage in stages)


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and all that it is computed from."""
    found: set[fx.Node] = set()
    left = [node]
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += node.all_input_nodes
    return found
