"""Which samples are near which, in the features and in a layout of them; numpy only, block by block."""

import math
from collections.abc import Iterator

import numpy as np

from lwexplain.probes.copies import copies_among

BLOCK_BYTES = 16 * 2**20

ROUNDING = 1e-13
"""Squared distances below this share of the squared norms are rounding of a zero."""


def nearest_points(points: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (N, k) int64 of the ``k`` other points nearest to each, nearest first, and their distances (N, k)."""
    indices, distances = [], []
    for _, d2 in distance_blocks(np.asarray(points, dtype=np.float64)):
        near = np.argpartition(d2, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(d2, near, 1)
        order = np.argsort(found, axis=1, kind="stable")
        indices.append(np.take_along_axis(near, order, 1))
        distances.append(np.sqrt(np.take_along_axis(found, order, 1)))
    return np.concatenate(indices), np.concatenate(distances)


def neighbourhood_quality(features: np.ndarray, layout: np.ndarray, k: int) -> tuple[float, float]:
    """Trustworthiness and the share of neighbours kept of a ``layout`` (N, 2) of ``features`` (N, D), both in [0, 1].

    With r the rank of a layout neighbour among all others by distance in the features, over the ``k`` nearest in
    the layout of each of the N points:

    - trustworthiness (Venna and Kaski 2001) is 1 - 2 / (N k (2N - 3k - 1)) * sum of max(0, r - k): near 1 where no
      far point has come near;
    - neighbours kept is the share with r <= k, which is also the share of each point's ``k`` nearest in the
      features that are among its ``k`` nearest in the layout.

    Points at equal distance share the smallest of their ranks. Of copies (``distinct_points``) one counts, and ``k`` is
    made to stay below half of the points that do; NaN where fewer than three do.
    """
    chosen = distinct_points(features)
    features, layout = features[chosen], layout[chosen]
    n = len(features)
    k = min(k, (n - 1) // 2)
    if k < 1:
        return math.nan, math.nan
    beyond, kept = 0, 0
    blocks = zip(
        distance_blocks(np.asarray(features, dtype=np.float64)),
        distance_blocks(np.asarray(layout, dtype=np.float64)),
        strict=True,
    )
    for (_, of_features), (_, of_layout) in blocks:
        near = np.argpartition(of_layout, k - 1, axis=1)[:, :k]
        to_near = np.take_along_axis(of_features, near, 1)
        for j in range(k):
            rank = 1 + np.count_nonzero(of_features < to_near[:, j : j + 1], axis=1)
            beyond += int(np.maximum(rank - k, 0).sum())
            kept += int(np.count_nonzero(rank <= k))
    return 1.0 - 2.0 * beyond / (n * k * (2 * n - 3 * k - 1)), kept / (n * k)


def distinct_points(features: np.ndarray) -> np.ndarray:
    """Positions (n,) of one of the rows (N, D) at each place, but of all at a place that a stage has collapsed to."""
    return copies_among(features).without_collapse(np.arange(len(features))).distinct()


def distance_blocks(points: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield ``(rows, d2)``: squared distances (rows, N) float64 from some points to all, to itself infinite."""
    points = points - points.mean(0)
    norms = np.einsum("nd,nd->n", points, points)
    step = max(1, BLOCK_BYTES // (8 * len(points)))
    for start in range(0, len(points), step):
        rows = slice(start, min(start + step, len(points)))
        sums = norms[rows, None] + norms
        d2 = points[rows] @ points.T
        d2 *= -2.0
        d2 += sums
        d2[d2 <= ROUNDING * sums] = 0.0
        d2[np.arange(len(d2)), np.arange(rows.start, rows.stop)] = np.inf
        yield rows, d2
