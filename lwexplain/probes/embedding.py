"""Two-dimensional layouts of the samples, stage by stage, in which points keep their place."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, Embedding, Measurement, StageData
from lwexplain.probes.layout import align, principal_components
from lwexplain.probes.splits import read_split

MAX_DIMENSIONS = 50


@PROBES.register("pca")
class Pca:
    """The first two principal components of each stage, turned onto those of the stage before.

    ``measure_all`` returns one Embedding per stage, of at most ``max_samples`` samples of the split, the
    same ones in every stage.
    """

    name = "pca"

    def __init__(self, split: str = "val", max_samples: int = 2000) -> None:
        self.split, self.max_samples = split, max_samples

    def measure_all(self, stages: Sequence[StageData]) -> dict[str, list[Embedding]]:
        samples = choose_samples(stages, self.split, self.max_samples)
        results: dict[str, list[Embedding]] = {}
        before: np.ndarray | None = None
        for stage in stages:
            layout = principal_components(read_split(stage, self.split)[0][samples], 2)
            before = layout if before is None else align(layout, before)
            results[stage.name] = [Embedding("pca", self.split, before.astype(np.float32), samples)]
        return results


@PROBES.register("umap")
class Umap:
    """UMAP of each stage, started from and turned onto the layout of the stage before, in its own process.

    ``measure_all`` returns per stage one Embedding of at most ``max_samples`` samples of the split (the
    same ones in every stage, the classes in proportion) and the metric ``trustworthiness`` in [0, 1]: the
    share of neighbourhoods in the layout that are neighbourhoods in the features (Venna and Kaski 2001).
    Features of more than 50 dimensions are reduced to 50 principal components for UMAP. The same seed gives
    the same layout.

    Raises ProbeError where the process fails or takes longer than ``timeout`` seconds.
    """

    name = "umap"

    def __init__(
        self,
        split: str = "val",
        max_samples: int = 2000,
        neighbors: int = 15,
        epochs: int = 200,
        timeout: float = 900.0,
    ) -> None:
        self.split, self.max_samples = split, max_samples
        self.neighbors, self.epochs, self.timeout = neighbors, epochs, timeout

    def measure_all(self, stages: Sequence[StageData]) -> dict[str, list[Embedding | Measurement]]:
        samples = choose_samples(stages, self.split, self.max_samples)
        if len(samples) < 5:
            raise ProbeError(f"UMAP needs at least 5 samples; {self.split} has {len(samples)}")
        features = [read_split(stage, self.split)[0][samples] for stage in stages]
        neighbors = min(self.neighbors, len(samples) - 1)
        layouts = self._layouts(features, neighbors, stages[0].seed)

        from sklearn.manifold import trustworthiness

        near = min(self.neighbors, (len(samples) - 1) // 2)
        note = f"UMAP, {near} neighbours"
        if len(samples) < len(stages[0].labels[self.split]):
            note += f", {len(samples)} of {len(stages[0].labels[self.split])} samples"
        results: dict[str, list[Embedding | Measurement]] = {}
        for stage, x, layout in zip(stages, features, layouts, strict=True):
            kept = float(trustworthiness(x, layout, n_neighbors=near))
            results[stage.name] = [
                Embedding("umap", self.split, layout, samples),
                Measurement("trustworthiness", kept, self.split, n=len(samples), note=note),
            ]
        return results

    def _layouts(self, features: list[np.ndarray], neighbors: int, seed: int) -> list[np.ndarray]:
        reduced = {
            f"features_{i}": (principal_components(x, MAX_DIMENSIONS) if x.shape[1] > MAX_DIMENSIONS else x)
            for i, x in enumerate(features)
        }
        with tempfile.TemporaryDirectory(prefix="lwexplain-umap-") as folder:
            source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
            arrays = {name: np.asarray(x, dtype=np.float32) for name, x in reduced.items()}
            np.savez(source, seed=seed, neighbors=neighbors, epochs=self.epochs, **arrays)  # type: ignore[arg-type]
            run_in_own_process("lwexplain.probes.umap_layout", [str(source), str(target)], self.timeout)
            with np.load(target, allow_pickle=False) as data:
                return [data[f"layout_{i}"] for i in range(len(features))]


def run_in_own_process(module: str, arguments: list[str], timeout: float) -> None:
    """``python -m module arguments``; raises ProbeError with the last line of its error output."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProbeError(f"{module} took longer than {timeout:g} s; use fewer samples") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise ProbeError(f"{module} failed: {reason}")


def choose_samples(stages: Sequence[StageData], split: str, most: int) -> np.ndarray:
    """Sorted positions (n,) int64 of at most ``most`` samples of the split, the classes in proportion.

    Depends on the seed and the labels only. Raises ProbeError where the stages do not hold the same samples.
    """
    _, labels = read_split(stages[0], split)
    for stage in stages[1:]:
        if not np.array_equal(read_split(stage, split)[1], labels):
            raise ProbeError(
                f"stages {stages[0].name!r} and {stage.name!r} differ in their {split} labels; layouts need "
                f"the "
                "same samples in the same order"
            )
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(stages[0].seed)
    # position within the own class, as a share of it: the smallest shares take every class in proportion
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        share[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.sort(np.argsort(share, kind="stable")[:most]).astype(np.int64)
