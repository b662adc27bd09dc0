"""Images as the network takes them, back as pixels for a person to look at."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lwexplain.data.batch_form import BatchForm
from lwexplain.data.pixels import colours_to_show, small, to_pixels


class Pictures:
    """Gathers small pictures of all images that pass by, and gives single ones in full size.

    Where ``mean`` and ``std`` (per channel, of pixels in [0, 1]) are known, they give back the true colours. Where they
    are not, values within [0, 1] are shown as they are, and others stretched over the range of the first batch, which
    ``note`` says.
    """

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        self._colours = None if mean is None or std is None else (list(mean), list(std))
        self._blocks: list[np.ndarray] = []
        self.note = ""

    def see(self, images: Tensor) -> None:
        """Look at a batch of images (N, C, H, W); other inputs are passed over."""
        if images.ndim == 4 and images.shape[1] in (1, 3) and len(images):
            pixels = torch.from_numpy(self.of(images)).permute(0, 3, 1, 2)
            self._blocks.append(small(pixels).permute(0, 2, 3, 1).contiguous().numpy())

    def all(self) -> np.ndarray | None:
        """Small pictures, uint8 (N, H, W, C); None where there was none."""
        return np.concatenate(self._blocks) if self._blocks else None

    def of(self, images: Tensor) -> np.ndarray:
        """These images in full size, uint8 (N, H, W, C)."""
        if self._colours is None:
            mean, std, self.note = colours_to_show(images)
            self._colours = mean, std
        return to_pixels(images, *self._colours)


def pictures_of(form: BatchForm) -> Pictures:
    """Pictures of batches of this form, in true colours where it says what they are normalised by."""
    return Pictures(form.mean, form.std) if form.mean else Pictures()
