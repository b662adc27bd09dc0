"""Euclidean distances block by block: no N x N matrix is ever in memory."""

from collections.abc import Iterator

import torch

BLOCK_BYTES = 4 * 2**20  # small enough to stay in the cache
ROUNDING = 1e-13  # squared distances below this share of the squared norms are rounding of a zero


def squared_distance_blocks(x: torch.Tensor, y: torch.Tensor | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield ``(rows, d2)`` with the squared distances d2 (rows of x, all of y), float64, >= 0.

    ``x`` (N, D), ``y`` (M, D), or ``y=None`` for x with itself, whose diagonal is exactly 0. Computed as
    |x|^2 + |y|^2 - 2xy after centring; what is below rounding is set to 0, so that equal rows are at
    distance 0.
    """
    itself = y is None
    centre = x.mean(0) if y is None else y.mean(0)
    x = x - centre
    y = x if y is None else y - centre
    x_norms, y_norms = x.square().sum(1), y.square().sum(1)
    step = max(1, BLOCK_BYTES // (8 * max(1, len(y))))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        norms = x_norms[rows, None] + y_norms
        d2 = torch.addmm(norms, x[rows], y.T, alpha=-2.0)
        d2.masked_fill_(d2 <= norms.mul_(ROUNDING), 0.0)
        if itself:
            d2[torch.arange(len(d2)), torch.arange(start, start + len(d2))] = 0.0
        yield rows, d2


def nearest_rows(x: torch.Tensor, y: torch.Tensor, k: int) -> torch.Tensor:
    """Indices (N, k) of the ``k`` rows of ``y`` nearest to each row of ``x``, nearest first."""
    found = [d2.topk(k, dim=1, largest=False, sorted=True).indices for _, d2 in squared_distance_blocks(x, y)]
    return torch.cat(found)
