"""Parity: the written file gives the logits of the network it was written from."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lwexplain.errors import ExportError

PARITY_BATCHES = (1, 7)
LARGEST_DIFFERENCE = 1e-4

Logits = Callable[[Tensor], Tensor]


def parity(written: Logits, eager: Logits, images: Tensor) -> dict[int, float]:
    """Largest absolute difference of logits on the first 1 and 7 of ``images`` (N, C, H, W), by batch size."""
    differences = {}
    for size in PARITY_BATCHES:
        batch = images[torch.arange(size) % len(images)]
        with torch.no_grad():
            differences[size] = float((written(batch) - eager(batch)).abs().max())
    return differences


def require_parity(differences: Mapping[int, float], what: str) -> None:
    """Raise ExportError where a difference is above 1e-4 or not a number."""
    for size, difference in differences.items():
        if not difference <= LARGEST_DIFFERENCE:
            raise ExportError(
                f"{what} differs from the network by {difference:.2g} in a logit at batch {size}, more than "
                f"{LARGEST_DIFFERENCE:g}; it was not kept. Try the other format, and another head (local, fresh)"
            )
