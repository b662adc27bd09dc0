"""Which samples stand for a split where all of them would be too many, and their order by class."""

import numpy as np

from lwexplain.probes.base import StageData
from lwexplain.probes.jackknife import jackknife_groups
from lwexplain.probes.splits import read_split

PAIRWISE_SAMPLES = 10_000
"""Most samples whose distances to each other are measured: 50 million pairs."""


def stratified_sample(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Sorted positions (n,) int64 of at most ``most`` of the samples with ``labels`` (N,), classes in proportion.

    Every class keeps two samples (or its only one), so far as ``most`` allows. Depends on labels and seed only.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    # place within the own class, as a share of it: the smallest shares take every class in proportion
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        share[members] = (np.arange(len(members)) + rng.random()) / len(members)
        share[members[:2]] -= 1
    return np.sort(np.argsort(share, kind="stable")[:most]).astype(np.int64)


def pairwise_samples(stage: StageData, split: str) -> np.ndarray:
    """Positions of the samples of a split that pairwise distances are taken of: sorted, (n,) int64.

    At most PAIRWISE_SAMPLES, and no more than fit as float64 into a quarter of ``stage.memory_bytes``.
    """
    features, labels = read_split(stage, split)
    fitting = max(2, stage.memory_bytes // 4 // (8 * features.shape[1]))
    return stratified_sample(labels, min(PAIRWISE_SAMPLES, fitting), stage.seed)


def sample_note(stage: StageData, split: str, n: int) -> str:
    """The remark on a value from ``n`` samples of a split; "" where these are all there are."""
    total = len(stage.labels[split])
    return f"stratified sub-sample of {n:,} of {total:,} {split} samples" if n < total else ""


def class_order(labels: np.ndarray, groups: int) -> np.ndarray:
    """The order (N,) int64 that sorts by class, and within a class by ``jackknife_groups``."""
    return np.lexsort((jackknife_groups(labels, groups), labels))
