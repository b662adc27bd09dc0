"""The embedded default: scikit-learn's handwritten digits."""

import torch

from lwexplain.config import DataConfig
from lwexplain.data.dataset import DATASETS, ImageArrays, Source


@DATASETS.register("digits")
def digits(config: DataConfig) -> Source:
    """Handwritten digits of scikit-learn: 1,797 grey images of 8x8 pixels, 10 classes, no test set.

    Values 0..16 are scaled to 0..255.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    return Source("digits", [str(digit) for digit in range(10)], ImageArrays(images, labels))
