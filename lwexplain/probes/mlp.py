"""The MLP probe: how much of the answer a small non-linear classifier reads from a stage."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import accuracy_of, balanced_accuracy_of
from lwexplain.probes.base import PROBES, Measurement, ProbeDefaults, StageData
from lwexplain.probes.linear.standardisation import Standardisation
from lwexplain.probes.metrics import accuracy as declared
from lwexplain.probes.moments import moments_of
from lwexplain.probes.splits import feature_blocks, let_go, read_split, splits_of

BATCH = 256

STEPS = 400
"""Fewest steps, however few samples there are."""

EPOCHS = 8
"""Fewest epochs, however many samples there are."""

LOOKS = 60
"""How often val is looked at, evenly spread over the epochs where these are more."""

RUN = 64
"""Consecutive samples that are read together where the features are not held in memory."""

LEARNING_RATES = {"standardised": 3e-3, "whitened": 1e-2}

FLOOR = 0.1
"""Added to the variances before the features are whitened."""


@PROBES.register("mlp")
class MLP(ProbeDefaults):
    """Accuracy of an MLP with one hidden layer of ``width`` ReLUs, its epoch and the scaling of features chosen on val.

    Rows ``mlp_probe_accuracy`` and ``mlp_probe_balanced_accuracy`` for train, val and test, in [0, 1] with intervals.
    Trained by AdamW (Loshchilov and Hutter 2019) on the cross-entropy in batches of 256, the learning rate falling to 0
    along a half cosine, twice: on standardised features, and on whitened ones, where small but telling variances are
    found early. It takes 400 steps and 8 epochs, and more where one of these needs it; of the epochs that val is asked
    after, 60 at most, the first with the highest accuracy counts. The same for the same ``seed`` of the stage. Raises
    ProbeError where train or val is missing or unusable.
    """

    name = "mlp"
    order = 50
    metrics = declared.MLP_PROBE

    def __init__(self, width: int = 256, weight_decay: float = 1e-2) -> None:
        if width < 1:
            raise ProbeError(f"mlp: the width is {width}; expected a whole number from 1")
        self.width, self.weight_decay = width, weight_decay

    def measure(self, stage: StageData) -> list[Measurement]:
        train, _ = read_split(stage, "train")
        val, _ = read_split(stage, "val")
        if train.shape[1] != val.shape[1]:
            raise ProbeError(f"stage {stage.name!r}: train has {train.shape[1]} features, val {val.shape[1]}")
        fits = [self._fit(stage, scaling) for scaling in LEARNING_RATES]
        best = max(fits, key=lambda fit: fit.val_accuracy)
        rows = []
        for split in splits_of(stage, ("train", "val", "test")):
            features, labels = read_split(stage, split)
            predicted = best.predict(features)
            rows.append(balanced_accuracy_of("mlp_probe_accuracy", predicted, labels, split, stage.classes, best.note))
            rows.append(accuracy_of("mlp_probe_accuracy", predicted, labels, split, best.note))
        return rows

    def _fit(self, stage: StageData, scaling: str) -> "_Fit":
        samples = _TrainSamples(stage, whitened=scaling == "whitened")
        val, val_labels = read_split(stage, "val")
        n, d = samples.features.shape
        generator = torch.Generator().manual_seed(stage.seed)
        weights = _drawn_weights(d, self.width, len(stage.classes), generator, stage.device)
        optimizer = torch.optim.AdamW(weights, weight_decay=self.weight_decay, fused=True)
        val_blocks = samples.blocks_of(val, stage.memory_bytes // 4)
        epochs = max(math.ceil(STEPS / math.ceil(n / BATCH)), EPOCHS)
        looks = {math.ceil(epochs * (look + 1) / min(LOOKS, epochs)) for look in range(min(LOOKS, epochs))}
        best, seen = _Fit(samples, []), 0
        for epoch in range(1, epochs + 1):
            for x, labels in samples.shuffle(generator):
                optimizer.param_groups[0]["lr"] = LEARNING_RATES[scaling] * _half_cosine(seen / (epochs * n))
                loss = F.cross_entropy(_logits(weights, x), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += len(x)
            if epoch not in looks:
                continue
            accuracy = float(np.mean(_predict(weights, val_blocks()) == val_labels))
            if accuracy > best.val_accuracy:
                best = _Fit(samples, weights, accuracy)
                best.note = f"width {self.width}, epoch {epoch} of {epochs} on {scaling} features, chosen on val"
        if samples.held is None:
            best.note += f", batches drawn from runs of {RUN} samples"
        return best


class _Fit:
    """A copy of weights that act on the features of ``samples``, and how good they are on val."""

    def __init__(self, samples: "_TrainSamples", weights: list[Tensor], val_accuracy: float = -1.0) -> None:
        self.standardise = samples.standardise
        self.weights = [weight.detach().clone() for weight in weights]
        if weights and samples.whiten is not None:
            self.weights[0] = self.weights[0] @ samples.whiten
        self.val_accuracy, self.note = val_accuracy, ""

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predicted classes (N,) for features as they are (N, D)."""
        return _predict(self.weights, (self.standardise(block) for _, block in feature_blocks(features)))


class _TrainSamples:
    """Train features of a stage, standardised or whitened, in random batches: held in memory if half of it suffices."""

    def __init__(self, stage: StageData, *, whitened: bool) -> None:
        self.features, labels = read_split(stage, "train")
        moments = moments_of(stage, "train").whole
        self.standardise = Standardisation.of(moments, stage.device)
        self.whiten: Tensor | None = None  # (D, D), for standardised features
        if whitened:
            scale = self.standardise.scale
            covariance = scale[:, None] * (moments.total / moments.n) * scale
            root = torch.linalg.cholesky(covariance + FLOOR * torch.eye(len(scale)).to(covariance))
            self.whiten = torch.linalg.inv(root).float().to(stage.device)
        self.labels = torch.tensor(labels).to(stage.device)
        row_bytes = 4 * self.features.shape[1]
        self.held: Tensor | None = None
        if len(labels) * row_bytes <= stage.memory_bytes // 2:
            self.held = torch.empty(self.features.shape, device=stage.device)
            for at, block in feature_blocks(self.features):
                self.held[at] = self._scale(block)
        self.runs_at_once = max(BATCH // RUN, stage.memory_bytes // 8 // (row_bytes * RUN))

    def shuffle(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in batches, in a new random order."""
        for x, labels in self._shuffle_parts(generator):
            order = torch.randperm(len(x), generator=generator).to(x.device)
            for batch in order.split(BATCH):
                yield x[batch], labels[batch]

    def _shuffle_parts(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples at once or, where they are not held, as many runs from anywhere as memory takes."""
        if self.held is not None:
            yield self.held, self.labels
            return
        n = len(self.features)
        starts = RUN * torch.randperm(math.ceil(n / RUN), generator=generator)
        for part in starts.split(self.runs_at_once):
            rows = torch.cat([torch.arange(start, min(start + RUN, n)) for start in part.tolist()])
            block = self.features[rows.numpy()]
            let_go(self.features)
            yield self._scale(block), self.labels[rows.to(self.labels.device)]

    def blocks_of(self, features: np.ndarray, most_bytes: int) -> Callable[[], Iterable[Tensor]]:
        """Features (N, D) scaled as those of train, block by block: scaled once if they fit into ``most_bytes``."""
        if 4 * features.size > most_bytes:
            return lambda: (self._scale(block) for _, block in feature_blocks(features))
        held = [self._scale(block) for _, block in feature_blocks(features)]
        return lambda: held

    def _scale(self, block: np.ndarray) -> Tensor:
        x = self.standardise(block)
        return x if self.whiten is None else x @ self.whiten.T


def _drawn_weights(d: int, width: int, classes: int, generator: torch.Generator, device: str) -> list[Tensor]:
    """Weights and biases of both layers, the weights normal by He et al. (2015), eq. 10; the biases 0."""
    weights = []
    for inputs, outputs in ((d, width), (width, classes)):
        weights.append(torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / inputs))
        weights.append(torch.zeros(outputs))
    return [weight.to(device).requires_grad_() for weight in weights]


def _logits(weights: list[Tensor], x: Tensor) -> Tensor:
    w1, b1, w2, b2 = weights
    return F.linear(F.relu(F.linear(x, w1, b1)), w2, b2)


def _predict(weights: list[Tensor], blocks: Iterable[Tensor]) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([_logits(weights, block).argmax(1).cpu().numpy() for block in blocks])


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))
