"""The process that computes UMAP layouts: ``python -m lwexplain.probes.umap_layout IN.npz OUT.npz``.

It imports numpy and umap, never torch: numba's threads and torch's do not mix in one process, and numba
compiles once for all stages. IN holds ``features_0``, ``features_1``, ... (N, D), row i the same sample in
each, and the integers ``seed``, ``neighbors``, ``epochs``. OUT gets ``layout_0``, ... (N, 2) float32.
"""

import sys
import warnings

import numpy as np

from lwexplain.probes.layout import align, principal_components


def layouts(features: list[np.ndarray], *, seed: int, neighbors: int, epochs: int) -> list[np.ndarray]:
    """UMAP (McInnes et al. 2018) per stage, each started from and turned onto the layout of the stage
    before."""
    import umap

    done: list[np.ndarray] = []
    for x in features:
        start = done[-1] if done else principal_components(x, 2)
        model = umap.UMAP(
            n_components=2,
            n_neighbors=neighbors,
            n_epochs=epochs,
            init=_ten_wide(start, seed),
            random_state=seed,
            n_jobs=1,
        )
        layout = np.asarray(model.fit_transform(x), dtype=np.float64)
        if not np.isfinite(layout).all():
            raise FloatingPointError(f"UMAP gave a layout that is not finite for stage {len(done)}")
        done.append(align(layout, done[-1]) if done else layout)
    return done


def _ten_wide(layout: np.ndarray, seed: int) -> np.ndarray:
    """Scaled to a range of 10, which is where UMAP's steps are made for; equal points are set apart a
    little."""
    width = float(np.ptp(layout, axis=0).max())
    scaled = (layout - layout.min(0)) * (10.0 / width if width > 0 else 0.0)
    return (scaled + np.random.default_rng(seed).normal(scale=1e-3, size=scaled.shape)).astype(np.float32)


def main(source: str, target: str) -> None:
    warnings.filterwarnings("ignore")
    with np.load(source, allow_pickle=False) as data:
        count = sum(name.startswith("features_") for name in data.files)
        features = [data[f"features_{i}"] for i in range(count)]
        options = {name: int(data[name]) for name in ("seed", "neighbors", "epochs")}
    found = layouts(features, **options)
    arrays = {f"layout_{i}": layout.astype(np.float32) for i, layout in enumerate(found)}
    np.savez(target, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
