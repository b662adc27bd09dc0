"""Samples that stand in the data more than once; numpy only.

A copy is at distance 0 from its original but for rounding, so that both are each other's nearest neighbour whatever the
features are worth. Measures of neighbours therefore take copies for one sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lwexplain.probes.pages import let_go

ROUNDING = 1e-5
"""Share of the length of a row of features that float32 may round differently from batch to batch in a deep network."""

OF_SPREAD, OF_NEIGHBOURS = 1e-3, 1e-2
"""No distance is rounding that is above these shares of the spread and of what neighbours are apart by."""

QUERIES = 64
"""Samples whose neighbours are looked at to find what distance is rounding."""

PROJECTIONS = 4

CERTAIN = 6.0
"""How many standard deviations the projection of a distance may be off."""

COLLAPSED_SHARE, COLLAPSED_LEAST = 0.05, 10
BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Copies:
    """Which of N samples coincide: ``first`` (N,) int64 holds the first sample of each one's place."""

    first: np.ndarray

    @property
    def extra(self) -> int:
        """Number of samples at whose place an earlier one is."""
        return int(np.count_nonzero(self.first != np.arange(len(self.first))))

    def without_collapse(self, labels: np.ndarray) -> "Copies":
        """Without the places that a stage has collapsed to, where different samples coincide.

        These hold all samples of a class that has two or more, or more than a twentieth of all (and more than 10).
        """
        n = len(self.first)
        sizes = np.bincount(self.first, minlength=n)
        collapsed = sizes > max(COLLAPSED_SHARE * n, COLLAPSED_LEAST)
        for label in np.unique(labels):
            places = self.first[labels == label]
            if len(places) > 1 and (places == places[0]).all():
                collapsed[places[0]] = True
        return Copies(np.where(collapsed[self.first], np.arange(n), self.first))

    def distinct(self, labels: np.ndarray | None = None) -> np.ndarray:
        """Sorted positions (n,) of one sample of each place or, with ``labels`` (N,), of each label at each place."""
        key = self.first if labels is None else np.stack([self.first, labels], 1)
        return np.sort(np.unique(key, axis=0, return_index=True)[1])


def copies_among(*features: np.ndarray) -> Copies:
    """The copies among the rows of finite ``features`` (N, D), counted through where there are several arrays.

    Copies are equal or within rounding of each other, and therefore close in any projection: rows are sorted by a
    random one, and those that are close in it and in three more are compared. Memory: some blocks of rows, and some
    numbers for each row.
    """
    rows = _Rows(features)
    n = rows.count
    if n < 2:
        return Copies(np.arange(n))
    tolerance = _tolerance(rows)
    directions = np.random.default_rng(0).normal(size=(rows.width, PROJECTIONS))
    projected = np.concatenate([block @ directions for block in rows.blocks()])
    order = np.argsort(projected[:, 0], kind="stable")
    projected, reach = projected[order], CERTAIN * tolerance[order]
    links: list[np.ndarray] = []
    at, step = np.arange(n - 1), 1  # places in the order that have no copy behind them so far
    while len(at):
        wide = np.maximum(reach[at], reach[at + step])
        within = projected[at + step, 0] - projected[at, 0] <= wide
        at, wide = at[within], wide[within]
        near = (np.abs(projected[at + step] - projected[at]) <= wide[:, None]).all(1)
        first, second = order[at[near]], order[at[near] + step]
        same = rows.distances(first, second) <= np.minimum(tolerance[first], tolerance[second])
        links.append(np.stack([first[same], second[same]], 1))
        found = np.zeros(len(at), dtype=bool)
        found[np.flatnonzero(near)[same]] = True
        step += 1
        at = at[~found & (at + step < n)]
    return Copies(_first_of_each_group(n, np.concatenate(links) if links else np.zeros((0, 2), dtype=np.int64)))


class _Rows:
    """The rows of several arrays (N, D) as those of one, in float64."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts, self.width = parts, parts[0].shape[1]
        self.starts = np.cumsum([0, *map(len, parts)])
        self.count = int(self.starts[-1])
        self.at_once = max(1, BLOCK_BYTES // (8 * self.width))

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows in their order, a block (n, D) at a time."""
        for part in self.parts:
            for start in range(0, len(part), self.at_once):
                block = np.array(part[start : start + self.at_once], dtype=np.float64)
                let_go(part)
                yield block

    def rows_at(self, rows: np.ndarray) -> np.ndarray:
        """Some ``rows`` (m,), (m, D)."""
        found = np.empty((len(rows), self.width))
        for part, start in zip(self.parts, self.starts, strict=False):
            mine = (rows >= start) & (rows < start + len(part))
            found[mine] = part[rows[mine] - start]
            let_go(part)
        return found

    def distances(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Distances (m,) of the rows ``first`` (m,) from the rows ``second`` (m,)."""
        found = np.empty(len(first))
        for start in range(0, len(first), self.at_once):
            at = slice(start, start + self.at_once)
            found[at] = np.linalg.norm(self.rows_at(first[at]) - self.rows_at(second[at]), axis=1)
        return found


def _tolerance(rows: _Rows) -> np.ndarray:
    """For each row (N,) the distance within which another is a copy."""
    asked = np.arange(0, rows.count, -(-rows.count // QUERIES))
    queries = rows.rows_at(asked)
    middle = np.median(queries, axis=0)  # far from none but outliers
    queries -= middle
    norms = np.einsum("nd,nd->n", queries, queries)
    lengths, moved = np.empty(rows.count), np.empty(rows.count)
    start = 0
    for block in rows.blocks():
        at = slice(start, start + len(block))
        start = at.stop
        lengths[at] = np.linalg.norm(block, axis=1)
        moved[at] = np.linalg.norm(block - middle, axis=1)
    spread = np.median(moved[moved > 0]) if moved.any() else 0.0
    tolerance = np.minimum(ROUNDING * lengths, OF_SPREAD * spread)
    nearest = np.full(len(asked), np.inf)
    for block in rows.blocks():
        block -= middle
        squares = np.einsum("nd,nd->n", block, block)
        apart = np.sqrt(np.maximum(squares[:, None] + norms - 2 * block @ queries.T, 0.0))
        apart[apart <= tolerance[asked]] = np.inf
        nearest = np.minimum(nearest, apart.min(0))
    known = nearest[np.isfinite(nearest)]
    return np.minimum(tolerance, OF_NEIGHBOURS * np.median(known)) if len(known) else tolerance


def _first_of_each_group(n: int, links: np.ndarray) -> np.ndarray:
    """The smallest index (n,) that each one is connected to by ``links`` (P, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(links), dtype=bool), (links[:, 0], links[:, 1])), shape=(n, n))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return first[group].astype(np.int64)
