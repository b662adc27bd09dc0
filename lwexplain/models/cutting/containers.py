"""Cutting of networks that are nn.Sequential, one within another or not: their layers in two or more rows."""

from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.cutting.graph import as_cut
from lwexplain.models.cutting.observation import Observation
from lwexplain.models.cutting.parts import Cut
from lwexplain.models.cutting.shared_copy import copy_structure, name_without_compiled
from lwexplain.models.ordering import in_channel_order
from lwexplain.models.staged import StagedModel


def cut_containers(seen: Observation) -> Cut:
    """The containers split after each stage. Raises ModelError where something else than nn.Sequential stands around a
    stage."""
    rest = copy_structure(seen.model)
    segments: dict[str, nn.Module] = {}
    start: list[int] = []
    for name in seen.names:
        path = name_without_compiled(name)
        end = _places(rest, path)
        segments[name] = _between(rest, start, end)
        start = end
    tail = _between(rest, start, [])
    nothing_follows = isinstance(tail, nn.Sequential) and not len(tail)
    staged = StagedModel(
        segments, seen.images.shape[1:], seen.num_classes, tail=nn.Identity() if nothing_follows else tail
    )
    staged.eval()
    return as_cut(in_channel_order(staged), seen)


def _places(network: nn.Module, path: str) -> list[int]:
    """The place of a module at each level. Raises ModelError at a level that is no plain nn.Sequential."""
    places = []
    module = network
    for part in path.split("."):
        if type(module).forward is not nn.Sequential.forward:
            raise ModelError(f"{path!r} stands in {type(module).__name__}, which is no nn.Sequential")
        if part not in module._modules:
            raise ModelError(f"{path!r} names a call and not a place in an nn.Sequential")
        places.append(list(module._modules).index(part))
        module = module.get_submodule(part)
    return places


def _between(module: nn.Module, start: list[int], end: list[int]) -> nn.Module:
    """What runs after the module at places ``start`` ([]: from the beginning) up to and with that at ``end`` ([]: to
    the end)."""
    if not start and not end:
        return module
    children = list(module._modules.items())
    first = start[0] if start else 0
    last = end[0] if end else len(children) - 1
    kept: dict[str, nn.Module] = {}
    for place in range(first, last + 1):
        name, child = children[place]
        inner_start = start[1:] if start and place == first else None
        inner_end = end[1:] if end and place == last else None
        if inner_start == []:
            continue  # the stage before ends with this child as a whole
        assert child is not None
        part = _between(child, inner_start or [], inner_end or [])
        if not (isinstance(part, nn.Sequential) and not len(part)):
            kept[name] = part
    row = nn.Sequential()
    for name, part in kept.items():
        row.add_module(name, part)
    return row
