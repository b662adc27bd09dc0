"""Parity: the written file gives the logits of the network it was written from, but for rounding."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lwexplain.errors import ExportError

PARITY_BATCHES = (1, 7)

SHARE_OF_SPREAD = 1e-4
"""Two correct programs of one network round differently, by 2^-24 = 6e-8 of a number at every operation. Over sums of
a thousand products in each of twenty layers that grows, as a random walk, to 6e-8 x sqrt(20,000) = 1e-5; this is ten
times as much. A ten-thousandth of what tells two classes apart moves no decision that is not a tie."""

ROUNDINGS = 4
"""Roundings of the largest logit that are allowed besides: logits far from 0 hold their differences no better."""

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of a head's logits, the most that it may be, and the spread of these logits: the
    largest difference of two of one image."""

    value: float
    limit: float
    spread: float

    @property
    def is_rounding(self) -> bool:
        """Whether it is within the limit; a difference that is not a number is not."""
        return self.value <= self.limit


def parity(written: Logits, eager: Logits, images: Tensor) -> dict[int, Difference]:
    """How far logits (N, K), or (N, E, K) of E heads, differ on the first 1 and 7 of ``images``, by batch size.

    Every head is judged by its own spread; what is returned is the one that comes nearest to its limit or goes
    furthest beyond.
    """
    differences = {}
    for size in PARITY_BATCHES:
        batch = images[torch.arange(size) % len(images)]
        with torch.no_grad():
            found, expected = (_by_head(logits(batch)) for logits in (written, eager))
        heads = [_difference(*pair) for pair in zip(found, expected, strict=True)]
        differences[size] = max(heads, key=_share_of_limit)
    return differences


def require_parity(differences: Mapping[int, Difference], what: str) -> None:
    """Raise ExportError where a difference is above its limit or not a number."""
    for size, found in differences.items():
        if not found.is_rounding:
            raise ExportError(
                f"{what} differs from the network by {found.value:.2g} in a logit at batch {size}; with logits of an "
                f"image up to {found.spread:.2g} apart, rounding explains {found.limit:.2g}. It was not kept. Try the "
                "other format, and another head (local, fresh)"
            )


def _by_head(logits: Tensor) -> list[Tensor]:
    logits = logits.double()
    return [logits] if logits.ndim == 2 else list(logits.unbind(1))


def _difference(found: Tensor, expected: Tensor) -> Difference:
    spread = float((expected.amax(1) - expected.amin(1)).max())
    rounding = torch.finfo(torch.float32).eps / 2 * float(expected.abs().max())
    return Difference(float((found - expected).abs().max()), SHARE_OF_SPREAD * spread + ROUNDINGS * rounding, spread)


def _share_of_limit(difference: Difference) -> float:
    share = difference.value / difference.limit if difference.limit else float(difference.value != 0) * float("inf")
    return float("inf") if share != share else share
