"""How often the 95 % intervals of the probes hold what they are of, on populations that are known.

    python tests/benchmarks/interval_coverage.py --out runs/interval_coverage      # results/interval_coverage.json

Samples of three sizes are drawn from two populations of normal classes, again and again, and every measure that carries
an interval is taken of each. Its target is

- the value in the population, from its means and covariances (GDV: from larger samples), for what is made of moments;
- the mean over all samples of this size, for what depends on nearest neighbours;
- for NC4 and the accuracy (of the nearest class mean, for all that have Wilson's interval) the share among 10,000 new
  samples, for the classifier that was fitted.

Cells that are done are kept, a second call goes on.
"""

import argparse
import json
import math
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result_file import write_result
from torch import nn

from lwexplain.probes.base import Measurement, StageData
from lwexplain.probes.collapse import NeuralCollapse, disagreement_with_nearest_mean, within_class_variability
from lwexplain.probes.geometry import Geometry, effective_rank, participation_ratio, variances
from lwexplain.probes.moments import ClassMoments
from lwexplain.probes.neighbours import NearestClassMean
from lwexplain.probes.separability.probe import Separability
from lwexplain.probes.separability.scatter import fisher_ratio, separation_law
from lwexplain.probes.similarity.probe import Similarity
from lwexplain.run.files import atomic_path

SIZES = (200, 400, 800)
NEW_SAMPLES = 10_000
GDV_SAMPLES, GDV_DRAWS = 2000, 20
OF_NEIGHBOURS = ("separability_index", "knn_purity", "silhouette", "hypothesis_margin")


class Population:
    """Normal classes with means of length about ``apart`` and one covariance with variances that fall as a power."""

    def __init__(self, classes: int, dims: int, apart: float, decay: float) -> None:
        rng = np.random.default_rng(1)
        means = rng.normal(size=(classes, dims))
        self.means = means * apart / np.linalg.norm(means, axis=1).mean()
        variance = np.arange(1, dims + 1.0) ** -decay
        self.scales = np.sqrt(variance * dims / variance.sum())
        self.classes, self.dims = classes, dims
        self.head = nn.Linear(dims, classes)
        self.mixing = rng.normal(size=(dims, dims // 2)) / math.sqrt(dims)  # of a second stage
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(self.means + 0.3 * rng.normal(size=means.shape)))
            self.head.bias.copy_(-torch.from_numpy(self.means**2).sum(1) / 2)

    def drawn(self, n: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, D) float32 and labels (n,), the classes equally frequent."""
        rng = np.random.default_rng(seed)
        labels = np.arange(n) % self.classes
        features = self.means[labels] + self.scales * rng.normal(size=(n, self.dims))
        return features.astype(np.float32), labels

    def stage(self, n: int, seed: int) -> StageData:
        """A stage with n samples in each split, and a head that knows the population about."""
        drawn = {split: self.drawn(n, (seed, number)) for number, split in enumerate(("train", "val", "test"))}
        features = {split: x for split, (x, _) in drawn.items()}
        with torch.no_grad():
            logits = {split: self.head(torch.from_numpy(x)).numpy() for split, x in features.items()}
        labels, names = {split: y for split, (_, y) in drawn.items()}, [str(k) for k in range(self.classes)]
        return StageData("one", 1, features, labels, names, logits=logits, head=self.head)

    def second(self, stage: StageData, seed: int) -> StageData:
        """A stage whose features are a mixture of those of ``stage`` and noise."""
        rng = np.random.default_rng((seed, 7))
        x = stage.features["val"].astype(np.float64) @ self.mixing
        return StageData("two", 2, {"val": x + rng.normal(size=x.shape)}, stage.labels, stage.classes)

    def moments(self) -> ClassMoments:
        """The moments of the population, as of a million samples."""
        each = 10**6 // self.classes
        within = torch.diag(torch.from_numpy(self.scales**2)) * each * self.classes
        counts = torch.full((self.classes,), float(each), dtype=torch.float64)
        return ClassMoments(np.arange(self.classes), counts, torch.from_numpy(self.means), within)

    def values(self, n: int) -> dict[str, float]:
        """What the population's moments say, ``calinski_harabasz`` in samples of n."""
        moments, k = self.moments(), self.classes
        spectrum, fisher = variances(moments), fisher_ratio(moments)
        between = np.square(self.means - self.means.mean(0)).sum(1)
        total = np.square(self.scales).sum()
        covariance = (moments.total / moments.n).numpy()
        crossed = covariance @ self.mixing
        mixed = self.mixing.T @ crossed + np.eye(self.mixing.shape[1])
        cka = np.square(crossed).sum() / math.sqrt(np.square(covariance).sum() * np.square(mixed).sum())
        return {
            "effective_rank": effective_rank(spectrum),
            "participation_ratio": participation_ratio(spectrum),
            "fisher_ratio": fisher,
            "fisher_ratio, a class": float(between[0] / total),
            "fisher_ratio, a pair": float(np.square(self.means[0] - self.means[1]).sum() / 4 / total),
            "calinski_harabasz": fisher * (n - k) / (k - 1),
            "separation_law": separation_law(moments),
            "nc1": within_class_variability(moments),
            "cka_linear": float(cka),
        }

    @cached_property
    def gdv(self) -> float:
        """The GDV of larger samples, on average."""
        found = []
        for draw in range(GDV_DRAWS):
            x, y = self.drawn(GDV_SAMPLES, (10**6, draw))
            stage = StageData("s", 1, {"val": x}, {"val": y}, [str(k) for k in range(self.classes)])
            found.append(next(row.value for row in Separability().measure(stage) if row.metric == "gdv"))
        return float(np.mean(found))


POPULATIONS: dict[str, Population] = {
    "4 classes, 8 features": Population(4, 8, 2.5, 1.0),
    "10 classes, 32 features": Population(10, 32, 4.0, 0.5),
}


def measured(population: Population, n: int, seed: int) -> dict[str, tuple[float, float | None, float | None, float]]:
    """Value, bounds and, where each sample has its own, the target (else NaN) of every measure of one sample."""
    stage = population.stage(n, seed)
    rows = {}
    for row in [*Separability().measure(stage), *Geometry().measure(stage), *NeuralCollapse().measure(stage)]:
        of = {None: "", "0": ", a class", "0 | 1": ", a pair"}.get(row.class_)
        if row.split == "val" and of is not None:
            rows[row.metric + of] = row
    both = [stage, population.second(stage, seed)]
    similar = Similarity(samples=4).measure_all(both)["one"]
    assert isinstance(similar, list)
    rows["cka_linear"] = next(row for row in similar if (row.metric, row.class_) == ("cka_linear", "two"))
    found = {name: (row.value, row.low, row.high, math.nan) for name, row in rows.items()}
    return found | _shares(population, stage, rows["nc4"], seed)


def _shares(population: Population, stage: StageData, nc4: Measurement, seed: int) -> dict[str, Any]:
    """The same of the shares, whose targets are those among new samples."""
    x, y = population.drawn(NEW_SAMPLES, (seed, 9))
    with torch.no_grad():
        logits = {"train": stage.logits["train"], "val": population.head(torch.from_numpy(x)).numpy()}
    features, labels = {"train": stage.features["train"], "val": x}, {"train": stage.labels["train"], "val": y}
    new = StageData("new", 1, features, labels, stage.classes, logits=logits)
    found = {"nc4": (nc4.value, nc4.low, nc4.high, disagreement_with_nearest_mean(new, "val")[0])}

    rows = [row for row in NearestClassMean().measure(stage) if row.class_ is None]
    share = next(row.value for row in NearestClassMean().measure(new) if row.class_ is None)
    for row in rows:
        found[f"{row.metric}, {row.split}"] = (row.value, row.low, row.high, share)
    return found


def cell(population: Population, n: int, samples: int) -> dict[str, dict[str, float | None]]:
    """Of each measure: how often its interval holds the target, among the samples in which it has one."""
    found = [measured(population, n, seed) for seed in range(samples)]
    targets = population.values(n) | {"gdv": population.gdv}
    result: dict[str, dict[str, float | None]] = {}
    for name in found[0]:
        value, low, high, own = np.array([row[name] for row in found], dtype=np.float64).T
        fixed = value.mean() if name.split(",")[0] in OF_NEIGHBOURS else targets.get(name)
        target = own if np.isfinite(own).all() else np.full(samples, np.nan if fixed is None else fixed)
        given = np.isfinite(low) & np.isfinite(high)
        covered = (low <= target) & (target <= high)
        result[name] = {
            "given": float(given.mean()),
            "covered": float(covered[given].mean()) if given.any() else None,
            "target": float(target.mean()) if np.isfinite(target).all() else None,
            "mean_value": float(value.mean()),
        }
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/interval_coverage"))
    parser.add_argument("--samples", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    cells = []
    for size in SIZES:
        for title, known in POPULATIONS.items():
            path = options.out / f"{title.replace(', ', '_').replace(' ', '_')}_{size}_{options.samples}.json"
            if not path.exists():
                with atomic_path(path) as temporary:
                    temporary.write_text(json.dumps(cell(known, size, options.samples)))
            cells.append({"population": title, "size": size, "measures": json.loads(path.read_text())})
    write_result("interval_coverage", {"samples": options.samples, "seeds": [0, options.samples - 1], "cells": cells})
