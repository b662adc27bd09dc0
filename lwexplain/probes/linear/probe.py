"""The linear probe: how much of the answer a linear classifier reads from a stage (Alain and Bengio 2016)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import accuracies_of, accuracy_of
from lwexplain.probes.base import PROBES, Measurement, Predictions, ProbeDefaults, StageData
from lwexplain.probes.linear.lbfgs import HISTORY, state_bytes
from lwexplain.probes.linear.logistic import LogisticLoss, own_rows, solve
from lwexplain.probes.metrics import accuracy as declared
from lwexplain.probes.splits import feature_blocks, read_split, splits_of
from lwexplain.processes import World, current_world

GRID = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
SHORTEST_HISTORY = 3


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: ``logits = features @ weight.T + bias`` on raw features, standardisation folded in.

    ``weight`` (K, D) and ``bias`` (K,) are float64 on the CPU. ``c`` is the inverse regularisation strength
    chosen on val, ``loss`` the mean cross-entropy on train plus the penalty, ``accuracies`` the val
    accuracy per C that it was chosen by, of fits ended early where there are several.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    c: float
    loss: float
    converged: bool
    accuracies: dict[float, float]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, K) float32, read block by block."""
        logits = np.empty((len(features), len(self.bias)), dtype=np.float32)
        for at, block in feature_blocks(features):
            logits[at] = torch.addmm(self.bias, torch.from_numpy(block).double(), self.weight.T).numpy()
        return logits

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """The same map in torch, differentiable, on the device and in the precision of ``features`` (N, D)."""
        return F.linear(features, self.weight.to(features), self.bias.to(features))

    @property
    def note(self) -> str:
        """The C, whether it lies at an end of the grid, and whether the fit has converged."""
        words = [f"C={self.c:g}"]
        if len(self.accuracies) > 1 and self.c == max(self.accuracies):
            words.append("largest C of the grid")
        if len(self.accuracies) > 1 and self.c == min(self.accuracies):
            words.append("smallest C of the grid")
        if not self.converged:
            words.append("not converged")
        if not self.weight.any():
            words.append("the features do not vary: always the most frequent class")
        return ", ".join(words)


@PROBES.register("linear")
class Linear(ProbeDefaults):
    """Multinomial logistic regression on standardised features, its C chosen on val, test read once.

    Rows ``linear_probe_accuracy`` for train, val and test, and for each class on val and test, in [0, 1] with Wilson
    intervals, and the predictions on val and test. All stages and all C are fitted together; of several processes each
    works on its own samples, and every one must call ``measure_all``. A stage whose train or val is missing or
    unusable gets a ProbeError in place of results.
    """

    name = "linear"
    order = 40
    metrics = declared.LINEAR_PROBE
    collective = True

    def __init__(self, grid: Sequence[float] = GRID) -> None:
        self.grid = tuple(sorted(float(c) for c in grid))
        if not self.grid or self.grid[0] <= 0:
            raise ProbeError(f"linear: the grid of C is {tuple(grid)}; expected positive numbers")

    def measure_all(self, stages: list[StageData]) -> Mapping[str, Sequence[Measurement | Predictions] | ProbeError]:
        world = current_world()
        found: dict[str, Sequence[Measurement | Predictions] | ProbeError] = {}
        usable = []
        for stage in stages:
            try:
                _check(stage)
                usable.append(stage)
            except ProbeError as error:
                found[stage.name] = error
        fit_linear_probes(usable, self.grid, world)
        for stage in usable:
            try:
                found[stage.name] = _rows(stage, fit_linear_probe(stage, self.grid), world)
            except ProbeError as error:
                found[stage.name] = error
        return found


def fit_linear_probe(stage: StageData, grid: Sequence[float] = GRID) -> LinearProbe:
    """The probe of one stage with the C best on val (ties: the smaller), fitted by this process alone or remembered.

    Minimises mean cross-entropy + |W|^2 / (2 C N) over W and an unpenalised bias (twice that penalty for two classes),
    which is scikit-learn's LogisticRegression on standardised features. Raises ProbeError where train or val is missing
    or unusable.
    """
    _check(stage)
    fit_linear_probes([stage], grid, World())
    fitted = remembered_probe(stage, grid)
    assert fitted is not None
    return fitted


def remembered_probe(stage: StageData, grid: Sequence[float] = GRID) -> LinearProbe | None:
    """The probe of a stage that was fitted before with this grid of C; None where there is none."""
    return stage.memo.get(_key(grid))


def remember_probe(stage: StageData, probe: LinearProbe, grid: Sequence[float] = GRID) -> None:
    """Keep a fitted probe, so that nobody fits it again."""
    stage.memo[_key(grid)] = probe


def fit_linear_probes(stages: Sequence[StageData], grid: Sequence[float], world: World) -> None:
    """Fit the probes of those ``stages`` that have none yet, and remember them.

    Stages are fitted together as far as half of ``memory_bytes`` goes for the state of the search and half for the
    features; a stage whose features do not fit is read anew at each evaluation. The C of a grid are compared on fits
    ended early, whose accuracies differ a little (0.003 on ResNet-18 stages); the one chosen is fitted to the end.
    """
    missing = [stage for stage in stages if remembered_probe(stage, grid) is None]
    rough: list[_Fit | None] = [None] * len(missing)
    accuracies: list[dict[float, float]] = [{} for _ in missing]
    if len(grid) > 1:
        for at, fits in enumerate(_fit_together(missing, [sorted(grid)] * len(missing), world)):
            accuracies[at] = _accuracies(missing[at], fits, world)
            rough[at] = max(fits, key=lambda fit: accuracies[at][fit.c])
    chosen = [[grid[0] if fit is None else fit.c] for fit in rough]
    for at, (fit,) in enumerate(_fit_together(missing, chosen, world, rough)):
        found = accuracies[at] or _accuracies(missing[at], [fit], world)
        fitted = LinearProbe(fit.weight, fit.bias, fit.c, fit.loss, fit.converged, found)
        remember_probe(missing[at], fitted, grid)


@dataclass(frozen=True)
class _Fit:
    c: float
    weight: torch.Tensor
    bias: torch.Tensor
    loss: float
    converged: bool


def _fit_together(
    stages: Sequence[StageData], grids: Sequence[Sequence[float]], world: World, rough: Sequence[_Fit | None] = ()
) -> list[list[_Fit]]:
    """The fits of each stage with each C of its grid: rough ones, or those that go on from ``rough``."""
    found: list[list[_Fit]] = [[] for _ in stages]
    for group, history in _groups(stages, grids, world):
        chosen = sorted({at for at, _ in group})
        losses = [LogisticLoss(stages[at], cached=_fits(stages[at], world), world=world) for at in chosen]
        problems = [(chosen.index(at), c) for at, c in group]
        begun = [fit for at in chosen if rough and (fit := rough[at]) is not None]
        starts = [
            loss.from_raw_features(fit.weight.to(loss.device), fit.bias.to(loss.device))
            for loss, fit in zip(losses, begun, strict=False)
        ]
        minima = solve(losses, problems, history, starts=starts, rough=not rough)
        for (at, c), (place, _), minimum in zip(group, problems, minima, strict=True):
            weight, bias = losses[place].on_raw_features(minimum.x)
            found[at].append(_Fit(c, weight.cpu(), bias.cpu(), minimum.value, minimum.converged))
    return found


def _accuracies(stage: StageData, fits: list[_Fit], world: World) -> dict[float, float]:
    """The val accuracy per C."""
    features, labels = read_split(stage, "val")
    rows = own_rows(len(labels), world)
    right = torch.zeros(len(fits), dtype=torch.int64)
    weight, bias = torch.cat([fit.weight for fit in fits]), torch.cat([fit.bias for fit in fits])
    for at, block in feature_blocks(features[rows]):
        logits = torch.addmm(bias, torch.from_numpy(block).double(), weight.T).float()
        predicted = logits.view(len(block), len(fits), -1).argmax(2)
        right += (predicted == torch.tensor(labels[rows][at])[:, None]).sum(0)
    shares = (world.total(right).double() / len(labels)).tolist()
    return {fit.c: share for fit, share in zip(fits, shares, strict=True)}


def _rows(stage: StageData, probe: LinearProbe, world: World) -> list[Measurement | Predictions]:
    rows: list[Measurement | Predictions] = []
    for split in splits_of(stage, ("train", "val", "test")):
        features, labels = read_split(stage, split)
        own = own_rows(len(labels), world)
        part = torch.zeros(len(labels), dtype=torch.int64)
        part[own] = torch.from_numpy(probe.logits(features[own]).argmax(1))
        predicted = world.total(part).numpy()
        if split == "train":
            rows.append(accuracy_of("linear_probe_accuracy", predicted, labels, split, probe.note))
            continue
        rows += accuracies_of("linear_probe_accuracy", predicted, labels, split, stage.classes, probe.note)
        rows.append(Predictions("linear_probe", split, predicted))
    return rows


def _check(stage: StageData) -> None:
    train, train_labels = read_split(stage, "train")
    val, _ = read_split(stage, "val")
    if len(np.unique(train_labels)) < 2:
        raise ProbeError(f"stage {stage.name!r}: train holds one class only; a linear probe needs at least two")
    if train.shape[1] != val.shape[1]:
        raise ProbeError(f"stage {stage.name!r}: train has {train.shape[1]} features, val {val.shape[1]}")


def _key(grid: Sequence[float]) -> str:
    return f"linear_probe:{tuple(grid)}"


def _fits(stage: StageData, world: World) -> bool:
    """Whether a process's train features, standardised and with a 1, take at most half of the memory."""
    return _feature_bytes(stage, world) <= stage.memory_bytes // 2


def _feature_bytes(stage: StageData, world: World) -> int:
    n, d = stage.features["train"].shape
    return 4 * (d + 1) * -(-n // world.size)


def _groups(
    stages: Sequence[StageData], grids: Sequence[Sequence[float]], world: World
) -> Iterator[tuple[list[tuple[int, float]], int]]:
    """Problems (stage, C) to solve together, and how many pairs to remember: fewer where one problem is too large."""
    group: list[tuple[int, float]] = []
    state = cache = 0
    for at, stage in enumerate(stages):
        n, d = stage.features["train"].shape
        limit = stage.memory_bytes // 2
        rows = min(d, n) + 1
        size = state_bytes(rows, len(stage.classes), HISTORY)
        copy = _feature_bytes(stage, world) if _fits(stage, world) else 0
        for c in grids[at]:
            new = not group or group[-1][0] != at
            if group and (state + size > limit or cache + copy * new > limit):
                yield group, HISTORY
                group, state, cache, new = [], 0, 0, True
            if size > limit:
                pairs = range(HISTORY, SHORTEST_HISTORY, -1)
                fitting = (h for h in pairs if state_bytes(rows, len(stage.classes), h) <= limit)
                yield [(at, c)], next(fitting, SHORTEST_HISTORY)
                continue
            group.append((at, c))
            state, cache = state + size, cache + copy * new
    if group:
        yield group, HISTORY
