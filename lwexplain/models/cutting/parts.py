"""What a way of cutting gives, and the proof that it gives what hooks have seen."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.cutting.observation import Observation, is_same
from lwexplain.models.staged import StagedModel


@dataclass(frozen=True)
class Cut:
    """Prefixes in the order of the stages, each images -> output in order; ``staged`` where they come from one."""

    prefixes: list[nn.Module]
    staged: StagedModel | None = None


def check_prefixes(prefixes: Iterable[nn.Module], seen: Observation) -> None:
    """Raise ModelError at the first stage whose prefix gives something else than hooks have seen, for any batch."""
    for place, prefix in enumerate(prefixes):
        check_prefix(prefix, seen, place)


def check_prefix(prefix: nn.Module, seen: Observation, place: int) -> None:
    name = seen.names[place]
    for batch in seen.batches:
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                found = prefix(batch.images.clone())
        except ModelError:
            raise
        except Exception as error:  # somebody's code raises anything
            raise ModelError(f"up to {name!r} it does not run for {len(batch.images)} images: {error}") from None
        if not is_same(found, batch.outputs[place]):
            raise ModelError(f"up to {name!r} it gives something else than the network for {len(batch.images)} images")
