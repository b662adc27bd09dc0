"""A factory of stages with made-up features."""

import numpy as np
import pytest

from lwexplain.probes.base import StageData


def make_blobs(
    seed=0,
    classes=3,
    dims=5,
    spread=1.0,
    sizes=None,
):
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
def make_stage():
    """``make_stage(name="s1", depth=1, logits=..., **options of make_blobs)`` -> StageData."""

    def make(
        name="s1",
        depth=1,
        *,
        seed=0,
        classes=3,
        dims=5,
        spread=1.0,
        sizes=None,
        **fields,
    ):
        features, labels = make_blobs(seed, classes, dims, spread, sizes)
        fields.setdefault("features", features)
        fields.setdefault("labels", labels)
        return StageData(name, depth, classes=[f"class {k}" for k in range(classes)], **fields)

    return make
