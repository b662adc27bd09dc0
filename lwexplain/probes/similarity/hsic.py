"""The unbiased Hilbert-Schmidt independence criterion, without a matrix of all pairs of samples in memory.

For two kernel matrices with their diagonals set to 0, K and L (n, n) (Song et al. 2012, JMLR 13, eq. 5):

    HSIC_1 = [ tr(K L) + (1'K1) (1'L1) / ((n - 1) (n - 2)) - 2 / (n - 2) 1'KL1 ] / (n (n - 3))

It does not change when the features behind a linear kernel are shifted, so that they are centred here for precision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lwexplain.probes.jackknife import GROUPS
from lwexplain.probes.splits import BLOCK_BYTES, feature_blocks, float64_device

Kernel = Callable[[slice], Tensor]
"""Rows (b, n) float64 of a kernel matrix; what they hold on its diagonal does not matter."""


def unbiased_hsic(trace: Tensor, first: Tensor, second: Tensor, product: Tensor, n: int) -> Tensor:
    """HSIC_1 from tr(KL), 1'K1, 1'L1 and 1'KL1 of kernel matrices of ``n`` >= 4 samples with zero diagonals."""
    return (trace + first * second / ((n - 1) * (n - 2)) - 2 / (n - 2) * product) / (n * (n - 3))


@dataclass(frozen=True)
class _Sums:
    """Sums over samples of features x (D,) and y (E,), with a = |x|^2 and b = |y|^2, from which HSIC_1 follows."""

    n: int
    xy: Tensor  # (D, E)
    x: Tensor
    y: Tensor
    xb: Tensor
    ya: Tensor
    a: Tensor
    b: Tensor
    ab: Tensor

    def hsic(self) -> float:
        # K = XX' less its diagonal a: row sums X (X'1) - a
        product = self.x @ self.xy @ self.y - self.x @ self.xb - self.y @ self.ya + self.ab
        trace = self.xy.square().sum() - self.ab
        first, second = self.x.square().sum() - self.a, self.y.square().sum() - self.b
        return float(unbiased_hsic(trace, first, second, product, self.n)) if self.n >= 4 else float("nan")

    def less(self, part: "_Sums") -> "_Sums":
        return _Sums(*(mine - its for mine, its in zip(vars(self).values(), vars(part).values(), strict=True)))

    def plus(self, part: "_Sums") -> "_Sums":
        return _Sums(*(mine + its for mine, its in zip(vars(self).values(), vars(part).values(), strict=True)))


def linear_hsic(
    x: np.ndarray,
    y: np.ndarray,
    x_mean: Tensor,
    y_mean: Tensor,
    *,
    group: np.ndarray | None = None,
    device: str = "cpu",
) -> np.ndarray:
    """HSIC_1 of the linear kernels of ``x`` (N, D) and ``y`` (N, E), and without each group of samples in turn.

    (1 + GROUPS,) float64, or (1,) without the ``group`` (N,) of each sample. Exact, in one pass over blocks of both.
    ``x_mean`` and ``y_mean`` are float64. Memory: a matrix (D, E) of float64, one more a group.
    """
    rows = max(1, BLOCK_BYTES // (x.shape[1] * x.itemsize + y.shape[1] * y.itemsize))
    parts: list[_Sums | None] = [None] * (1 if group is None else GROUPS)
    for (at, x_block), (_, y_block) in zip(feature_blocks(x, rows), feature_blocks(y, rows), strict=True):
        x_rows = torch.from_numpy(x_block).to(float64_device(device)).double() - x_mean
        y_rows = torch.from_numpy(y_block).to(float64_device(device)).double() - y_mean
        for number, known in enumerate(parts):
            mine = slice(None) if group is None else torch.from_numpy(group[at] == number).to(x_rows.device)
            part = _sums(x_rows[mine], y_rows[mine])
            parts[number] = part if known is None else known.plus(part)
    found = [part for part in parts if part is not None]
    whole = found[0]
    for part in found[1:]:
        whole = whole.plus(part)
    return np.array([whole.hsic(), *(whole.less(part).hsic() for part in found if group is not None)])


def _sums(x: Tensor, y: Tensor) -> _Sums:
    a, b = x.square().sum(1), y.square().sum(1)
    return _Sums(len(x), x.T @ y, x.sum(0), y.sum(0), x.T @ b, y.T @ a, a.sum(), b.sum(), a @ b)


def gram_hsic(kernels: Sequence[Kernel], n: int, *, memory_bytes: int, device: str = "cpu") -> np.ndarray:
    """HSIC_1 (S, S) of every pair of S kernels of the same ``n`` samples, by blocks of rows of all at once."""
    device = float64_device(device)
    traces = torch.zeros(len(kernels), len(kernels), dtype=torch.float64, device=device)
    sums = torch.zeros(len(kernels), n, dtype=torch.float64, device=device)
    step = max(1, min(n, memory_bytes // (3 * 8 * n * len(kernels))))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        blocks = torch.stack([kernel(rows) for kernel in kernels])
        here = torch.arange(rows.stop - rows.start, device=device)
        blocks[:, here, here + start] = 0.0
        sums[:, rows] = blocks.sum(2)
        flat = blocks.flatten(1)
        traces += flat @ flat.T
    totals = sums.sum(1)
    return unbiased_hsic(traces, totals[:, None], totals, sums @ sums.T, n).cpu().numpy()


def linear_kernel(x: Tensor) -> Kernel:
    """x_i . x_j of ``x`` (n, D) float64, centred."""
    x = x - x.mean(0)
    return lambda rows: x[rows] @ x.T


def rbf_kernel(x: Tensor, bandwidth: float) -> Kernel | None:
    """exp(-|x_i - x_j|^2 / (2 s^2)) of ``x`` (n, D) float64, s = ``bandwidth`` times the median distance of a pair.

    None where the median is 0. Holds all n (n - 1) / 2 distances for a moment: keep n in the thousands.
    """
    x = x - x.mean(0)
    norms = x.square().sum(1)

    def squared_distances(rows: slice) -> Tensor:
        return torch.addmm(norms[rows, None] + norms, x[rows], x.T, alpha=-2.0).clamp_(min=0.0)

    above = []  # the diagonal
    for start in range(0, len(x), 256):
        block = squared_distances(slice(start, start + 256))
        row, column = torch.triu_indices(len(block), len(x), offset=start + 1, device=x.device)
        above.append(block[row, column].cpu())
    median = float(np.median(torch.cat(above).sqrt_().numpy()))
    if median**2 <= 1e-13 * float(norms.max()):  # rounding of distances between equal samples
        return None
    return lambda rows: squared_distances(rows).mul_(-0.5 / (bandwidth * median) ** 2).exp_()
