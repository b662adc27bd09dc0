"""Cutting by what a network offers itself: layers after a stage are taken away, and its features are what is left.

Meant are the methods ``prune_intermediate_layers`` and ``forward_features``, which timm's networks have.
"""

import re
from typing import Any

from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.cutting.observation import Observation
from lwexplain.models.cutting.parts import Cut, check_prefix
from lwexplain.models.cutting.prefix import Prefix
from lwexplain.models.cutting.shared_copy import copy_structure, keep_used_tensors

METHODS = ("prune_intermediate_layers", "forward_features")


class OwnFeatures(nn.Module):
    """Images -> what ``forward_features`` of a pruned network gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        features: Any = self.network.forward_features
        return features(images)


def cut_by_own_api(seen: Observation) -> Cut:
    """A pruned copy for each stage. Raises ModelError where the network has no such methods, or where what they give is
    not the output of a stage."""
    missing = [name for name in METHODS if not callable(getattr(seen.model, name, None))]
    if missing:
        raise ModelError(f"{type(seen.model).__name__} has no method {' or '.join(missing)}")
    prefixes: list[nn.Module] = []
    index = -1
    for place in range(len(seen.names)):
        prefix, index = _pruned_at(seen, place, index)
        keep_used_tensors(prefix, lambda prefix=prefix: prefix(seen.images))  # type: ignore[misc]
        check_prefix(prefix, seen, place)
        prefixes.append(prefix)
    return Cut(prefixes)


def _pruned_at(seen: Observation, place: int, after: int) -> tuple[Prefix, int]:
    """The pruned copy that gives the output of the stage at ``place``, and its index in the network's own count."""
    tried = []
    for index in _likely_indices(seen.names[place], place, after):
        try:
            copied = copy_structure(seen.model)
            pruned: Any = copied
            pruned.prune_intermediate_layers([index], prune_norm=True, prune_head=True)
            prefix = Prefix(OwnFeatures(copied), seen.layouts[place])
            check_prefix(prefix, seen, place)
            return prefix, index
        except Exception as error:  # an index out of range, or a network that cannot be pruned there
            tried.append(f"{index}: {error}")
    raise ModelError(
        f"none of the places {', '.join(text.partition(':')[0] for text in tried) or 'left'} that its own "
        f"{METHODS[0]} can keep gives the output of {seen.names[place]!r}"
    )


def _likely_indices(name: str, place: int, after: int) -> list[int]:
    """Where a stage may stand in the network's own count: the last number in its name, its place among the stages, and
    the one after that of the stage before."""
    numbers = re.findall(r"\d+", name.partition("#")[0].rpartition(".")[2])
    named = [int(numbers[-1]), int(numbers[-1]) - 1, int(numbers[-1]) + 1] if numbers else []
    return [index for index in dict.fromkeys([*named, after + 1, place, place + 1]) if index > after]
