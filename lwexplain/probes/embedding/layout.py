"""Two-dimensional layouts in numpy: principal components, turning one layout onto another, how far points moved."""

import numpy as np
from scipy import linalg


def principal_components(features: np.ndarray, k: int) -> np.ndarray:
    """Scores (N, k) float64 on the first ``k`` principal axes, zero beyond the rank.

    The sign of each axis is fixed: its largest loading is positive.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(0)
    axes = _last_eigenvectors(x.T @ x, k)[1] if x.shape[1] <= len(x) else _axes_from_gram(x, k)
    axes = axes[:, ::-1]
    largest = np.abs(axes).argmax(0)
    signs = np.sign(axes[largest, np.arange(axes.shape[1])])
    scores = x @ (axes * np.where(signs == 0, 1.0, signs))
    return np.pad(scores, ((0, 0), (0, k - scores.shape[1])))


def align(layout: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """``layout`` (N, 2) rotated, mirrored and moved, not scaled, to lie nearest to ``onto`` (N, 2).

    Orthogonal Procrustes (Schoenemann 1966); row i of both is the same sample.
    """
    centred, target = layout - layout.mean(0), onto - onto.mean(0)
    u, _, vt = np.linalg.svd(centred.T @ target)
    return centred @ (u @ vt) + onto.mean(0)


def layout_shift(layout: np.ndarray, before: np.ndarray) -> float:
    """Mean distance between the places of the same sample in two layouts (N, 2), in units of their spread.

    The spread is the root mean square distance of a point from the centre of its layout, over both layouts. 0 where
    nothing moves, about 1.3 for layouts that have nothing in common, 0 for layouts without spread.
    """
    moved = np.linalg.norm(layout - before, axis=1).mean()
    spread = np.sqrt((layout.var(0).sum() + before.var(0).sum()) / 2)
    return float(moved / spread) if spread > 0 else 0.0


def _last_eigenvectors(symmetric: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest eigenvalues and their vectors, in ascending order; all where there are fewer."""
    n = len(symmetric)
    return linalg.eigh(symmetric, subset_by_index=[max(0, n - k), n - 1])  # type: ignore[no-any-return]


def _axes_from_gram(x: np.ndarray, k: int) -> np.ndarray:
    """Principal axes (D, k) in ascending order for fewer samples than dimensions."""
    values, vectors = _last_eigenvectors(x @ x.T, k)
    scale = np.sqrt(np.clip(values, 0, None))
    return x.T @ (vectors / np.where(scale > 1e-9 * scale.max(initial=1e-300), scale, np.inf))
