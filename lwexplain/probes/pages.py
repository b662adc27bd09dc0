"""Memory-mapped features leave memory once they are read; no torch."""

import mmap

import numpy as np


def let_go(features: np.ndarray) -> None:
    """Drop the pages of a memory-mapped array from this process's memory; they stay in the file."""
    mapped: mmap.mmap | None = getattr(features, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
