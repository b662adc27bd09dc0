"""Cutting by a graph of the network: symbolic tracing between the stages."""

from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.cutting.exported_graph import cut_by_export
from lwexplain.models.cutting.observation import Observation
from lwexplain.models.cutting.parts import Cut, check_prefixes
from lwexplain.models.cutting.shared_copy import copy_structure, name_without_compiled
from lwexplain.models.staged import StagedModel
from lwexplain.models.wrap import stage_by_names


def cut_by_graph(seen: Observation) -> Cut:
    """By symbolic tracing; where that fails, by torch.export. Raises ModelError with both reasons."""
    try:
        return cut_by_tracing(seen)
    except ModelError as traced:
        try:
            return cut_by_export(seen)
        except ModelError as exported:
            raise ModelError(f"{traced}; torch.export: {exported}") from None


def cut_by_tracing(seen: Observation) -> Cut:
    """The traced network in stages, with what follows the last one where that takes its output alone."""
    names = [name_without_compiled(name) for name in seen.names]
    shape, classes = tuple(seen.images.shape[1:]), seen.num_classes
    copied = copy_structure(seen.model)
    try:
        staged = stage_by_names(copied, names, shape, classes)
    except ModelError:
        staged = stage_by_names(copied, names, shape, classes, tail=False)
    return as_cut(staged, seen)


def as_cut(staged: StagedModel, seen: Observation) -> Cut:
    """The prefixes of a staged network, proven equal."""
    prefixes: list[nn.Module] = [staged.prefix(depth).eval() for depth in range(1, staged.depth + 1)]
    check_prefixes(prefixes, seen)
    return Cut(prefixes, staged)
