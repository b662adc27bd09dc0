"""A factory of stages with made-up features."""

from collections.abc import Callable

import numpy as np
import pytest

from lwexplain.probes.base import StageData


def make_blobs(
    seed: int = 0,
    classes: int = 3,
    dims: int = 5,
    spread: float = 1.0,
    sizes: dict[str, tuple[int, ...]] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gaussian classes around random means, unequal in size, in mixed order."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, dims)) * 2
    sizes = sizes or {split: tuple(20 + 9 * k for k in range(classes)) for split in ("train", "val", "test")}
    features, labels = {}, {}
    for split, counts in sizes.items():
        y = rng.permutation(np.repeat(np.arange(classes), counts))
        features[split] = (centres[y] + spread * rng.normal(size=(len(y), dims))).astype(np.float32)
        labels[split] = y.astype(np.int64)
    return features, labels


@pytest.fixture
def make_stage() -> Callable[..., StageData]:
    """``make_stage(name="s1", depth=1, logits=..., **options of make_blobs)`` -> StageData."""

    def make(
        name: str = "s1",
        depth: int = 1,
        *,
        seed: int = 0,
        classes: int = 3,
        dims: int = 5,
        spread: float = 1.0,
        sizes: dict[str, tuple[int, ...]] | None = None,
        **fields,
    ) -> StageData:
        features, labels = make_blobs(seed, classes, dims, spread, sizes)
        fields.setdefault("features", features)
        fields.setdefault("labels", labels)
        return StageData(name, depth, classes=[f"class {k}" for k in range(classes)], **fields)

    return make
