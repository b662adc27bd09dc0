"""Euclidean distances block by block: no N x N matrix is ever in memory."""

from collections.abc import Iterator

import torch

BLOCK_BYTES = 4 * 2**20
"""Distances computed at a time: few enough to stay in the cache."""

ROUNDING = 1e-13
"""Squared distances below this share of the squared norms are rounding of a zero."""


def squared_distance_blocks(x: torch.Tensor, y: torch.Tensor | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield ``(rows, d2)`` with the squared distances d2 (rows of x, all of y), float64, >= 0.

    ``x`` (N, D), ``y`` (M, D), or ``y=None`` for x with itself, whose diagonal is exactly 0. Computed as
    |x|^2 + |y|^2 - 2xy after centring; what is below rounding is set to 0, so that equal rows are at
    distance 0. A block is new memory, which the caller may change.
    """
    itself = y is None
    middle = centre(x if y is None else y)
    x = x - middle
    y = x if y is None else y - middle
    x_norms = x.square().sum(1)
    y_norms = x_norms if itself else y.square().sum(1)
    step = max(1, BLOCK_BYTES // (8 * max(1, len(y))))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        d2 = _squared_distances(x[rows], x_norms[rows], y, y_norms)
        if itself:
            d2.diagonal(start).zero_()
        yield rows, d2


def pair_blocks(x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield ``(rows, d2)`` with the squared distances of ``x`` (N, D) with itself, each pair of rows once.

    d2 has a column for each row of x from ``rows.start`` on; on and below its diagonal stand zeros. Otherwise as
    ``squared_distance_blocks``.
    """
    x = x - centre(x)
    norms = x.square().sum(1)
    start = 0
    while start < len(x):
        step = max(1, BLOCK_BYTES // (8 * (len(x) - start)))
        rows = slice(start, min(start + step, len(x)))
        yield rows, _squared_distances(x[rows], norms[rows], x[start:], norms[start:]).triu_(1)
        start = rows.stop


def centre(x: torch.Tensor) -> torch.Tensor:
    """A point (D,) amid the rows of ``x`` (N, D): their mean, rounded to a power of two near each standard deviation.

    So that features on a grid (whole numbers, say) keep distances without any rounding, and those that are equal
    stay equal.
    """
    std, mean = torch.std_mean(x, dim=0, correction=0)
    _, exponent = torch.frexp(std)
    step = torch.ldexp(torch.ones_like(std), exponent)
    return torch.where(std > 0, torch.round(mean / step) * step, mean)


def _squared_distances(x: torch.Tensor, x_norms: torch.Tensor, y: torch.Tensor, y_norms: torch.Tensor) -> torch.Tensor:
    norms = x_norms[:, None] + y_norms
    d2 = torch.addmm(norms, x, y.T, alpha=-2.0)
    return d2.masked_fill_(d2 <= norms.mul_(ROUNDING), 0.0)
