"""A few images of every class, picked while batches pass by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SAMPLE_IMAGES = 12


@dataclass(frozen=True)
class Samples:
    """A few images as the network takes them: ``images`` (M, C, H, W) float32, ``labels`` (M,) int64, sorted by class,
    and ``positions`` (M,) int64, their rows in the split."""

    images: Tensor
    labels: np.ndarray
    positions: np.ndarray


class SampleImages:
    """Picks a few images: of every class one before of any a second, SAMPLE_IMAGES or one a class, at most twice
    SAMPLE_IMAGES."""

    def __init__(self) -> None:
        self._first: dict[int, list[tuple[int, Tensor]]] = {}
        self._seen = 0

    def see(self, images: Tensor, labels: Sequence[int] | np.ndarray) -> None:
        """Look at a batch of images (N, C, H, W) in floating point and labels (N,); other inputs are passed over."""
        if images.ndim == 4 and images.is_floating_point():
            for row, label in enumerate(np.asarray(labels).reshape(-1).tolist()):
                kept = self._first.setdefault(label, [])
                if len(kept) < SAMPLE_IMAGES:
                    kept.append((self._seen + row, images[row].detach().to("cpu", torch.float32, copy=True)))
        self._seen += len(images)

    def chosen(self) -> Samples | None:
        """None where no batch held images."""
        if not self._first:
            return None
        size = min(2 * SAMPLE_IMAGES, max(SAMPLE_IMAGES, len(self._first)))
        rounds = [(turn, label) for label, kept in self._first.items() for turn in range(len(kept))]
        places = sorted(sorted(rounds)[:size], key=lambda item: (item[1], item[0]))
        picked = [self._first[label][turn] for turn, label in places]
        return Samples(
            torch.stack([image for _, image in picked]),
            np.array([label for _, label in places], dtype=np.int64),
            np.array([position for position, _ in picked], dtype=np.int64),
        )
