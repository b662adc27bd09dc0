"""The loss of multinomial logistic regression on stages, for several penalties in one pass over the features."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lwexplain.probes.base import StageData
from lwexplain.probes.linear.lbfgs import HISTORY, Minimum, minimise
from lwexplain.probes.linear.standardisation import Standardisation
from lwexplain.probes.moments import moments_of
from lwexplain.probes.splits import feature_blocks, float64_device, read_split
from lwexplain.processes import World

CPU_BYTES = 2**20
"""Logits of a block: small enough to stay in the cache."""

ACCELERATOR_BYTES = 2**26
"""The same on an accelerator: enough to keep it busy."""

RANK = 1e-12
"""Variances below this share of the largest are rounding."""

FIRST_ITERATIONS = 20
"""Iterations until the axes are turned to those of the curvature."""

MAX_ITERATIONS = 450

ROUGH_TOLERANCE = 1e-3
"""Tolerance of a fit from which no more than an accuracy is read."""

ROUGH_REMAINING = 1e-6
ROUGH_ITERATIONS = 150

LOWEST_LEVEL = 1e-12
"""Least level of a Hessian (see ``turn``); where all samples are certain it would be 0."""


class LogisticLoss:
    """Mean cross-entropy + |W|^2 / (2 C N) over the train samples of a stage; the bias is free of penalty.

    Where train holds two classes, + |W|^2 / (C N): their rows of W are w / 2 and -w / 2 at the minimum, for w of binary
    logistic regression, whose penalty |w|^2 / (2 C N) that is. C is then scikit-learn's for any number of classes.

    Weights (R + 1, K), the bias last, act on R orthogonal axes of the standardised features and on K of the classes,
    which leaves the minimum what it is. Along them the Hessian is nearly diagonal: at first those of the covariance
    (Boehning 1992 bounds the Hessian by half of it), after ``turn`` those of the Hessian's Kronecker factors (Martens
    and Grosse 2015). Products are taken in float32, sums in float64. Of several processes each reads its own rows; with
    ``cached`` they stay in memory on the present axes, 4 bytes for each feature, else each evaluation reads them
    anew and turns the weights.
    """

    def __init__(self, stage: StageData, *, cached: bool = True, world: World | None = None) -> None:
        features, labels = read_split(stage, "train")
        self.world = world or World()
        self.device, self.n, self.classes = torch.device(float64_device(stage.device)), len(labels), len(stage.classes)
        rows = own_rows(self.n, self.world)
        self.features, self.labels = features[rows], torch.tensor(labels[rows]).to(self.device)
        self.penalty = (2 if len(np.unique(labels)) == 2 else 1) / self.n

        moments = moments_of(stage, "train").whole
        self.standardise = Standardisation.of(moments, self.device)
        scale = self.standardise.scale
        variances, axes = self._eigen(scale[:, None] * (moments.total / self.n) * scale)
        kept = variances > RANK * variances.amax().clamp(min=1e-300)
        kept[-1] = True  # the largest: features that do not vary keep one axis, along which all samples are at 0
        self.variances, self.axes = variances[kept], axes[:, kept]
        self.class_variances = variances.new_full((self.classes,), 0.5)
        self.class_axes = torch.eye(self.classes, dtype=axes.dtype, device=self.device)
        self._cache = [(_turn_rows(x, self.axes), own) for x, own in self._read()] if cached else None

    def start(self) -> Tensor:
        """Weights (R + 1, K) of zero."""
        return self.variances.new_zeros(len(self.variances) + 1, self.classes)

    def inverse_curvature(self, c: float, level: float = 1.0) -> Tensor:
        """The inverse of the Hessian's diagonal (R + 1, K), roughly; ``level`` as ``turn`` returns it."""
        classes = level * self.class_variances
        return 1 / torch.cat([self.variances[:, None] * classes + self.penalty / c, classes[None]])

    def sums(self, weights: Tensor) -> Tensor:
        """What ``finish`` needs of this process's rows for ``weights`` (P, R + 1, K): a flat float64 tensor.

        The sums over samples of the cross-entropies (P,) and of residual times feature and 1 (K, P, D + 1).
        """
        p, _, k = weights.shape
        w = self._on_features(weights)
        losses, slopes = weights.new_zeros(p), weights.new_zeros(w.shape)
        for x, labels in self._blocks(k * p):
            loss, residual = cross_entropy((w @ x.T).view(k, p, len(x)), labels)
            losses += loss.sum(1, dtype=torch.float64)
            slopes += residual.view(k * p, len(x)) @ x
        return torch.cat([losses, slopes.flatten()])

    def finish(self, sums: Tensor, weights: Tensor, cs: Tensor) -> tuple[Tensor, Tensor]:
        """Values (P,) and gradients (P, R + 1, K) at ``weights`` with C = ``cs`` (P,), from ``sums`` over all rows."""
        p, _, k = weights.shape
        slopes = sums[p:].view(k, p, -1).permute(1, 2, 0) @ self.class_axes / self.n
        if self._cache is None:
            slopes = torch.cat([self.axes.T @ slopes[:, :-1], slopes[:, -1:]], 1)
        penalty = self.penalty / cs
        squares = weights[:, :-1].square().sum((1, 2))
        slopes[:, :-1] += penalty[:, None, None] * weights[:, :-1]
        return sums[:p] / self.n + 0.5 * penalty * squares, slopes

    def turn(self, weights: Tensor) -> tuple[Tensor, list[float]]:
        """Turn the axes to those of the Hessian at ``weights`` (P, R + 1, K): the same weights on them, and P levels.

        The Hessian is about level x F (x) G (Kronecker), with p the class probabilities of a sample: the level is the
        mean of its uncertainty 1 - |p|^2, F the second moments of the features with uncertainties as weights, and G the
        mean of diag(p) - p p^T over the level. F and G are averaged over the P.
        """
        p, _, k = weights.shape
        w = self._on_features(weights)
        d = w.shape[1]

        def probabilities(x: Tensor) -> Tensor:
            return torch.softmax((w @ x.T).view(k, p, len(x)), 0)

        levels, f, g = weights.new_zeros(p), weights.new_zeros(d, d), weights.new_zeros(k, k)
        for x, _ in self._blocks(k * p):
            levels += (1 - probabilities(x).square().sum(0)).sum(1, dtype=torch.float64)
        levels = (self.total(levels) / self.n).clamp(min=LOWEST_LEVEL)
        share = (1 / (p * self.n * levels)).float()
        for x, _ in self._blocks(k * p):
            found = probabilities(x)
            f += (x.T * (share @ (1 - found.square().sum(0)))) @ x
            shared = (found * share[:, None]).view(k, -1)
            g += torch.diag(shared.sum(1)) - shared @ found.view(k, -1).T
        f, g = self.total(torch.cat([f.flatten(), g.flatten()])).split([d * d, k * k])
        f = f.view(d, d)[:-1, :-1]
        variances, axes = self._eigen(f if self._cache is not None else self.axes.T @ f @ self.axes)
        class_variances, class_axes = self._eigen(self.class_axes.T @ g.view(k, k) @ self.class_axes)
        self.variances = variances.clamp(min=0)
        self.class_variances = class_variances.clamp(min=1e-3 * float(class_variances.amax()))
        self.axes, self.class_axes = self.axes @ axes, self.class_axes @ class_axes
        cache = self._cache or []
        for at, (x, own) in enumerate(cache):
            cache[at] = _turn_rows(x, axes), own
        return torch.cat([axes.T @ weights[:, :-1], weights[:, -1:]], 1) @ class_axes, levels.tolist()

    def on_raw_features(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The map of ``weights`` (R + 1, K) on the features as they are: weight (K, D) and bias (K,)."""
        scale, mean = self.standardise.scale, self.standardise.mean
        weight = self.class_axes @ (scale[:, None] * (self.axes @ weights[:-1])).T
        return weight, self.class_axes @ weights[-1] - weight @ mean

    def from_raw_features(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The weights (R + 1, K) whose map on the features as they are is ``weight`` (K, D) and ``bias`` (K,)."""
        scale, mean = self.standardise.scale, self.standardise.mean
        standardised = torch.where(scale > 0, weight / scale, 0.0).T
        return torch.cat([self.axes.T @ standardised, (bias + weight @ mean)[None]]) @ self.class_axes

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return tensor if self.world.is_alone else self.world.total(tensor).to(self.device)

    def _eigen(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues and eigenvectors, those of the first process: their signs may differ from machine to machine."""
        found = torch.cat([part.reshape(-1, len(matrix)) for part in torch.linalg.eigh(matrix)])
        found = self.total(found if self.world.is_main else torch.zeros_like(found))
        return found[0], found[1:]

    def _on_features(self, weights: Tensor) -> Tensor:
        """Float32 weights (K P, D + 1) on the features of ``_blocks``, the classes slowest and the biases last."""
        turned = (weights @ self.class_axes.T).permute(2, 0, 1)
        if self._cache is None:
            turned = torch.cat([turned[..., :-1] @ self.axes.T, turned[..., -1:]], -1)
        return turned.reshape(-1, turned.shape[-1]).float()

    def _blocks(self, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of features and 1 with their labels, so many that their ``columns`` logits each are of a good size."""
        rows = max(128, (CPU_BYTES if self.device.type == "cpu" else ACCELERATOR_BYTES) // (4 * columns))
        for x, labels in self._cache if self._cache is not None else self._read():
            yield from zip(x.split(rows), labels.split(rows), strict=True)

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Standardised features and 1, float32 (n, D + 1), of this process's rows, with their labels."""
        for at, block in feature_blocks(self.features):
            yield F.pad(self.standardise(block), (0, 1), value=1.0), self.labels[at]


def _turn_rows(x: Tensor, axes: Tensor) -> Tensor:
    """Features and 1 (n, D + 1) on ``axes`` (D, R), and 1: (n, R + 1) float32."""
    return F.pad((x[:, :-1].double() @ axes).float(), (0, 1), value=1.0)


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (P, n) and softmax less one-hot (K, P, n) for ``logits`` (K, P, n), which are overwritten.

    What the wrong classes hold is summed by itself, so that samples that are all but certain keep their digits.
    """
    k, _, n = logits.shape
    one_hot = logits.new_zeros(k, 1, n).scatter_(0, labels[None, None], 1.0)
    shifted = logits.sub_(logits.amax(0))
    own = shifted.gather(0, labels.expand(1, *shifted.shape[1:]))[0]
    exponentials = shifted.exp_().mul_(1 - one_hot)
    right, wrong = own.exp(), exponentials.sum(0)
    loss = torch.where(own > -60, _log1p(wrong / right), wrong.log() - own)
    whole = right + wrong
    return loss, exponentials.div_(whole).addcmul_(one_hot, wrong / whole, value=-1)


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x) to the last digits (Kahan): on the CPU torch's own takes as long as all the rest of the loss."""
    y = 1 + x
    return torch.where(y == 1, x, y.log() * (x / (y - 1)))


def own_rows(n: int, world: World) -> slice:
    """This process's part of ``n`` rows."""
    return slice(n * world.rank // world.size, n * (world.rank + 1) // world.size)


def solve(
    losses: Sequence[LogisticLoss],
    problems: Sequence[tuple[int, float]],
    history: int = HISTORY,
    *,
    starts: Sequence[Tensor] | None = None,
    rough: bool = False,
) -> list[Minimum]:
    """The minimum for each of ``problems``, (place in ``losses``, C), ascending; ``x`` is on the axes of its loss.

    All are solved together: an evaluation reads the features of each loss once, for all its C. Of several processes
    every one must call it with the same problems, and gets the same minima. ``starts`` are points near the minima, on
    the axes of new losses; a ``rough`` minimum is near enough to compare accuracies.
    """
    groups = [[number for number, (at, _) in enumerate(problems) if at == place] for place in range(len(losses))]
    cs = losses[0].variances.new_tensor([c for _, c in problems])

    def function(running: list[int], points: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        point = dict(zip(running, points, strict=True))
        active = [[number for number in group if number in point] for group in groups]
        parts = [
            (loss, group, torch.stack([point[number] for number in group]))
            for loss, group in zip(losses, active, strict=True)
            if group
        ]
        sums = [loss.sums(weights) for loss, _, weights in parts]
        totals = losses[0].total(torch.cat(sums)).split([len(part) for part in sums])
        found = [
            loss.finish(total, weights, cs[group]) for total, (loss, group, weights) in zip(totals, parts, strict=True)
        ]
        return torch.cat([values for values, _ in found]), [one for _, gradients in found for one in gradients]

    def search(points: Sequence[Tensor], curvatures: Sequence[Tensor], most: int) -> list[Minimum]:
        if rough:
            ends = {"tolerance": ROUGH_TOLERANCE, "remaining": ROUGH_REMAINING}
            return minimise(
                function, points, curvatures, history=history, max_iterations=min(most, ROUGH_ITERATIONS), **ends
            )
        return minimise(function, points, curvatures, history=history, max_iterations=most)

    curvatures = [losses[at].inverse_curvature(c) for at, c in problems]
    pending = set(range(len(losses)))
    points = list(starts or ())
    if not points:
        minima = search([losses[at].start() for at, _ in problems], curvatures, FIRST_ITERATIONS)
        points = [minimum.x for minimum in minima]
        pending = {at for (at, _), minimum in zip(problems, minima, strict=True) if not minimum.converged}
        if not pending:
            return minima
    for place in sorted(pending):
        turned, levels = losses[place].turn(torch.stack([points[number] for number in groups[place]]))
        for number, point, level in zip(groups[place], turned, levels, strict=True):
            points[number] = point
            curvatures[number] = losses[place].inverse_curvature(problems[number][1], level)
    return search(points, curvatures, MAX_ITERATIONS)
