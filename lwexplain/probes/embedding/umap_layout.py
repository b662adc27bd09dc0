"""The process that computes UMAP layouts: ``python -m lwexplain.probes.embedding.umap_layout FOLDER BACKEND``.

With umap-learn it imports no torch: numba's threads and torch's do not mix in one process, and numba compiles once
for all stages, before there are features. Then it puts an empty file ``ready`` into FOLDER and waits for a line on
its standard input. It ends when its standard input does, so that it never outlives the process that started it.

With that line FOLDER holds ``options.json`` and ``features_0.npy``, ``features_1.npy``, ... (N, D) float32, row i the
same sample in each. It gets ``layouts.npz``: ``layout_0``, ... (N, 2) float32, and ``trustworthiness`` and
``neighbors_kept``, one number per stage.
"""

import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lwexplain.probes.embedding.layout import align, principal_components
from lwexplain.probes.embedding.layout_quality import nearest_points, neighbourhood_quality

MAX_DIMENSIONS = 50
READY = "ready"

# A stage that starts from the layout of the stage before needs less: half the epochs in steps of a quarter of the
# size lose no trustworthiness (and keep more neighbours), and points move less than with either in full.
LATER_EPOCHS, LATER_RATE = 0.5, 0.25


@dataclass(frozen=True)
class Options:
    """What the layouts depend on besides the features; ``near`` neighbours serve the quality of the layout."""

    seed: int
    neighbors: int
    near: int
    epochs: int
    backend: str = "umap"
    device: str = "cpu"


def layouts(features: Iterator[np.ndarray], options: Options) -> Iterator[tuple[np.ndarray, float, float]]:
    """Per stage the layout (N, 2) float32, its trustworthiness and the share of neighbours kept.

    UMAP (McInnes et al. 2018) of at most 50 principal components, the first stage started from the principal
    components, each later one from the layout of the stage before and then turned onto it.
    """
    lay_out = torchdr_layout if options.backend == "torchdr" else umap_layout
    before: np.ndarray | None = None
    for x in features:
        reduced = principal_components(x, MAX_DIMENSIONS) if x.shape[1] > MAX_DIMENSIONS else x
        start = principal_components(x, 2) if before is None else before
        epochs, rate = (options.epochs, 1.0) if before is None else (int(options.epochs * LATER_EPOCHS), LATER_RATE)
        layout = lay_out(reduced.astype(np.float32), _ten_wide(start, options.seed), max(1, epochs), rate, options)
        if not np.isfinite(layout).all():
            raise FloatingPointError(f"{options.backend} gave a layout that is not finite")
        before = layout if before is None else align(layout, before)
        coordinates = before.astype(np.float32)
        yield coordinates, *neighbourhood_quality(x, coordinates, options.near)


def umap_layout(x: np.ndarray, start: np.ndarray, epochs: int, rate: float, options: Options) -> np.ndarray:
    """By umap-learn, from exact neighbours: its own search is compiled anew in each process and slower than ours."""
    import umap

    indices, distances = nearest_points(x, options.neighbors - 1)
    itself = np.arange(len(x))[:, None]
    model = umap.UMAP(
        n_neighbors=options.neighbors,
        n_epochs=epochs,
        learning_rate=rate,
        init=start,
        random_state=options.seed,
        n_jobs=1,
        precomputed_knn=(
            np.hstack([itself, indices]),
            np.hstack([np.zeros_like(itself), distances]).astype(np.float32),
        ),
    )
    return np.asarray(model.fit_transform(x), dtype=np.float64)


def torchdr_layout(x: np.ndarray, start: np.ndarray, epochs: int, rate: float, options: Options) -> np.ndarray:
    """By torchdr, on ``options.device``."""
    import torch
    import torchdr

    model = torchdr.UMAP(
        n_neighbors=options.neighbors,
        max_iter=epochs,
        lr=rate,
        init=torch.from_numpy(start),
        init_scaling=float(start[:, 0].std(ddof=1)),  # torchdr divides by this deviation; keep the start as it is
        random_state=options.seed,
        device=options.device,
        backend=None,
        distributed=False,
    )
    layout = model.fit_transform(torch.from_numpy(x).to(options.device))
    return layout.detach().cpu().numpy().astype(np.float64)  # type: ignore[no-any-return]


def _ten_wide(layout: np.ndarray, seed: int) -> np.ndarray:
    """Scaled to a range of 10, which is where UMAP's steps are made for; equal points are set apart a little."""
    width = float(np.ptp(layout, axis=0).max())
    scaled = (layout - layout.min(0)) * (10.0 / width if width > 0 else 0.0)
    return (scaled + np.random.default_rng(seed).normal(scale=1e-3, size=scaled.shape)).astype(np.float32)


def compile_ahead() -> None:
    """Import umap-learn and have numba compile it, by layouts of made-up points: types, not sizes, decide what for."""
    points = np.random.default_rng(0).normal(size=(64, MAX_DIMENSIONS + 1)).astype(np.float32)
    for _ in layouts(iter([points, points]), Options(seed=0, neighbors=5, near=5, epochs=20)):
        pass


def main(folder: Path, backend: str, handed_over: threading.Event) -> None:
    warnings.filterwarnings("ignore")
    if backend == "umap":
        compile_ahead()
    (folder / READY).touch()
    handed_over.wait()
    options = Options(**json.loads((folder / "options.json").read_text()))
    files = sorted(folder.glob("features_*.npy"), key=lambda file: int(file.stem.removeprefix("features_")))
    found = list(layouts((np.load(file, allow_pickle=False) for file in files), options))
    arrays = {f"layout_{i}": layout for i, (layout, _, _) in enumerate(found)}
    arrays["trustworthiness"] = np.array([trusted for _, trusted, _ in found])
    arrays["neighbors_kept"] = np.array([kept for _, _, kept in found])
    np.savez(folder / "layouts.npz", **arrays)  # type: ignore[arg-type]


def _listen(folder: Path, handed_over: threading.Event) -> None:
    """Tell of the line on standard input, and end with it, which comes when the parent closes it or dies."""
    while os.read(0, 1024):  # unbuffered: a lock on sys.stdin would be in the way when this process ends by itself
        handed_over.set()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    line = threading.Event()
    threading.Thread(target=_listen, args=(Path(sys.argv[1]), line), daemon=True).start()
    main(Path(sys.argv[1]), sys.argv[2], line)
