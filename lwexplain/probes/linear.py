"""The linear probe: how much of the answer a linear classifier reads from a stage (Alain and Bengio 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import accuracy_of
from lwexplain.probes.base import PROBES, Measurement, Predictions, StageData
from lwexplain.probes.lbfgs import Minimum, minimise
from lwexplain.probes.splits import as_float64, read_split, splits_of

GRID = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: ``logits = features @ weight.T + bias`` on raw features, standardisation folded in.

    ``weight`` (K, D) and ``bias`` (K,) are float64 on the CPU. ``c`` is the inverse regularisation strength
    chosen on val, ``loss`` the mean cross-entropy on train plus the penalty, ``accuracies`` the val
    accuracy per C.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    c: float
    loss: float
    converged: bool
    accuracies: dict[float, float]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K) float32."""
        x = torch.from_numpy(np.array(features, dtype=np.float64))
        return torch.addmm(self.bias, x, self.weight.T).float().numpy()

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """The same map in torch, differentiable, on the device and in the precision of ``features`` (N,
        D)."""
        return F.linear(features, self.weight.to(features), self.bias.to(features))

    @property
    def note(self) -> str:
        return f"C={self.c:g}" + ("" if self.converged else ", not converged")


@PROBES.register("linear")
class Linear:
    """Multinomial logistic regression on standardised features, its C chosen on val, test read once.

    Rows ``linear_probe_accuracy`` for train, val and test, in [0, 1] with Wilson intervals, and the
    predictions on val and test. Raises ProbeError where train or val is missing or unusable.
    """

    name = "linear"

    def __init__(self, grid: Sequence[float] = GRID) -> None:
        self.grid = tuple(sorted(float(c) for c in grid))
        if not self.grid or self.grid[0] <= 0:
            raise ProbeError(f"linear: the grid of C is {tuple(grid)}; expected positive numbers")

    def measure(self, stage: StageData) -> list[Measurement | Predictions]:
        probe = fit_linear_probe(stage, self.grid)
        rows: list[Measurement | Predictions] = []
        for split in splits_of(stage, ("train", "val", "test")):
            features, labels = read_split(stage, split)
            predicted = probe.logits(features).argmax(1).astype(np.int64)
            rows.append(accuracy_of("linear_probe_accuracy", predicted, labels, split, probe.note))
            if split != "train":
                rows.append(Predictions("linear_probe", split, predicted))
        return rows


def fit_linear_probe(stage: StageData, grid: Sequence[float] = GRID) -> LinearProbe:
    """Fit on train for each C and keep the one best on val (ties: the smaller C); remembered in
    ``stage.memo``.

    Minimises mean cross-entropy + |W|^2 / (2 C N) over W and an unpenalised bias, which is scikit-learn's
    LogisticRegression on standardised features. The features are rotated to their principal axes first, which
    leaves the minimum as it is and makes the curvature nearly diagonal (Boehning 1992 bounds it).
    """
    key = f"linear_probe:{tuple(grid)}"
    if key not in stage.memo:
        stage.memo[key] = _fit(stage, grid)
    return stage.memo[key]


def _fit(stage: StageData, grid: Sequence[float]) -> LinearProbe:
    train, train_labels = read_split(stage, "train")
    val, val_labels = read_split(stage, "val")
    if len(np.unique(train_labels)) < 2:
        raise ProbeError(f"stage {stage.name!r}: train holds one class only; a linear probe needs at least two")
    if train.shape[1] != val.shape[1]:
        raise ProbeError(f"stage {stage.name!r}: train has {train.shape[1]} features, val {val.shape[1]}")
    x = as_float64(train, stage.device)
    y = torch.tensor(train_labels).to(x.device)
    k = len(stage.classes)

    std, mean = torch.std_mean(x, dim=0, correction=0)
    varies = std > 1e-7 * mean.abs()
    scale = torch.where(varies, 1 / std, torch.zeros_like(std))
    x = (x - mean) * scale
    variances, axes = _principal_axes(x)
    z = x @ axes
    to_raw = scale[:, None] * axes  # (D, R): weights on principal axes -> weights on raw features

    best: tuple[float, float, LinearProbe] | None = None
    accuracies: dict[float, float] = {}
    weights = torch.zeros(z.shape[1] + 1, k, dtype=x.dtype, device=x.device)
    for c in sorted(grid):
        found = _solve(z, y, variances, weights, c)
        weights = found.x
        weight = (to_raw @ weights[:-1]).T
        bias = weights[-1] - weight @ mean
        probe = LinearProbe(weight.cpu(), bias.cpu(), c, found.value, found.converged, accuracies)
        accuracies[c] = float(np.mean(probe.logits(val).argmax(1) == val_labels))
        if best is None or accuracies[c] > best[0]:
            best = (accuracies[c], c, probe)
    assert best is not None
    return best[2]


def _principal_axes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Variances (R,) and axes (D, R) of centred ``x`` (N, D), by the smaller of its two products; R is its rank."""
    n, d = x.shape
    variances, vectors = torch.linalg.eigh((x.T @ x if d <= n else x @ x.T) / n)
    kept = variances > 1e-12 * variances.amax().clamp(min=1e-300)
    variances, vectors = variances[kept], vectors[:, kept]
    return variances, vectors if d <= n else x.T @ vectors / (n * variances).sqrt()


def _solve(z: torch.Tensor, y: torch.Tensor, variances: torch.Tensor, start: torch.Tensor, c: float) -> Minimum:
    """Weights (R + 1, K), the bias last, for z (N, R) with uncorrelated columns of the given variances."""
    n, k = len(z), start.shape[1]
    penalty = 1.0 / (c * n)
    one_hot = F.one_hot(y, k).to(z.dtype)

    def loss_and_gradient(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = torch.log_softmax(torch.addmm(weights[-1], z, weights[:-1]), dim=1)
        residual = (log_p.exp() - one_hot) / n
        slope = torch.addmm(weights[:-1], z.T, residual, beta=penalty)
        loss = -log_p.gather(1, y[:, None]).mean() + 0.5 * penalty * weights[:-1].square().sum()
        return loss, torch.cat([slope, residual.sum(0, keepdim=True)])

    curvature = torch.cat([0.5 * variances + penalty, variances.new_tensor([0.5])])
    return minimise(loss_and_gradient, start, 1.0 / curvature[:, None])
