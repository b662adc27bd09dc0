"""What identifies the images of a split while they pass by once, whatever their order."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MODULUS = 2**256


class SplitFingerprint:
    """Sums up the images and labels of a split.

    ``contents`` does not depend on the order of the samples: it is the sum of the SHA-256 of each. ``order`` does, so
    that rows of two runs with the same one belong to the same samples.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0
        self._sequence = hashlib.sha256()

    def see(self, images: Tensor, labels: Sequence[int] | np.ndarray) -> None:
        """Add a batch of images (N, ...) and labels (N,)."""
        rows = images.detach().cpu().contiguous()
        for row, label in zip(rows, np.asarray(labels).reshape(-1).tolist(), strict=True):
            digest = hashlib.sha256(f"{tuple(row.shape)} {row.dtype} {label};".encode())
            digest.update(row.reshape(-1).view(torch.uint8).numpy().data)
            value = digest.digest()
            self._sequence.update(value)
            self._sum = (self._sum + int.from_bytes(value, "big")) % MODULUS
            self.count += 1

    @property
    def contents(self) -> str:
        """The same for the same samples in any order."""
        return f"{self.count}:{self._sum:064x}"

    @property
    def order(self) -> str:
        """The same for the same samples in the same order."""
        return self._sequence.hexdigest()
