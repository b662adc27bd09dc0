"""Two-dimensional layouts in numpy: principal components, and turning one layout onto another."""

import numpy as np


def principal_components(features: np.ndarray, k: int) -> np.ndarray:
    """Scores (N, k) float64 on the first ``k`` principal axes, zero beyond the rank.

    The sign of each axis is fixed: its largest loading is positive.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(0)
    _, axes = np.linalg.eigh(x.T @ x) if x.shape[1] <= len(x) else (None, _axes_from_gram(x))
    axes = axes[:, ::-1][:, :k]
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


def _axes_from_gram(x: np.ndarray) -> np.ndarray:
    """Principal axes (D, N) in ascending order for fewer samples than dimensions."""
    values, vectors = np.linalg.eigh(x @ x.T)
    scale = np.sqrt(np.clip(values, 0, None))
    return x.T @ (vectors / np.where(scale > 1e-9 * scale.max(initial=1e-300), scale, np.inf))
