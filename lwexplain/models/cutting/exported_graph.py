"""Cutting by torch.export: the graph of the operations that a run up to a stage makes."""

import contextlib
import io
import logging
import warnings
from typing import Any

import torch
from torch import fx, nn

from lwexplain.errors import ModelError
from lwexplain.models.cutting.hook import run_up_to
from lwexplain.models.cutting.observation import Observation
from lwexplain.models.cutting.parts import Cut, check_prefix
from lwexplain.models.cutting.prefix import Prefix
from lwexplain.models.cutting.shared_copy import copy_structure


def cut_by_export(seen: Observation) -> Cut:
    """A graph for each stage, with the tensors that it uses. Raises ModelError where one cannot be made, or where it
    gives something else than the network for batches of another size than it was made with."""
    prefixes: list[nn.Module] = []
    for place, (name, layout) in enumerate(zip(seen.names, seen.layouts, strict=True)):
        run = run_up_to(copy_structure(seen.model), name, to_the_end=True)
        prefix = Prefix(_graph_of(run, seen), layout)  # casts images itself, so that a copy in another dtype still runs
        check_prefix(prefix, seen, place)
        prefixes.append(prefix)
    return Cut(prefixes)


def _graph_of(run: nn.Module, seen: Observation) -> nn.Module:
    """The operations of ``run`` as a graph module that shares its tensors."""
    images = seen.batches[2].images  # of two or more
    batch = torch.export.Dim("batch", min=1)
    printed = io.StringIO()  # torch prints the half-made graph where it fails
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stderr(printed):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            program = torch.export.export(run, (images,), dynamic_shapes=({0: batch},), strict=False)
            return _up_to_output(program.module(check_guards=False))
        except Exception as error:  # export raises nearly anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(lines[0]) from None
        finally:
            logging.disable(level)


def _up_to_output(module: Any) -> nn.Module:
    """The graph up to its output, with the tensors that this needs."""
    graph: fx.Graph = module.graph
    nodes = list(graph.nodes)
    returned = nodes[-1]
    last = max(nodes.index(node) for node in returned.all_input_nodes)
    for node in reversed(nodes[last + 1 : -1]):
        graph.erase_node(node)
    graph.eliminate_dead_code(_must_stay)
    return fx.GraphModule(module, graph)


def _must_stay(node: fx.Node) -> bool:
    """Whether a node does something besides making a value that others use."""
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    return node.op in ("placeholder", "output")
