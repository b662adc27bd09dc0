"""How somebody's batches are to be read: where images and labels are, and what pixels are normalised by."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lwexplain.arguments import finite, shown
from lwexplain.errors import CaptureError

Pick = Callable[[Any], Any]
"""From a batch to (images, labels) or (images, labels, index)."""


@dataclass(frozen=True)
class BatchForm:
    """``pick`` finds images and labels in a batch, None where lwexplain is to find them by itself.

    ``mean`` and ``std`` are those that the network was trained with, one value a channel (or one for all) of pixels in
    [0, 1]; empty where they are not known. Images of uint8 are normalised by them; images of floats are taken as
    normalised already.
    """

    pick: Pick | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, batch: Any = None, mean: Any = None, std: Any = None) -> "BatchForm":
        """From what a person passes as ``batch``, ``mean`` and ``std``; raises CaptureError."""
        if batch is not None and (not callable(batch) or isinstance(batch, type)):
            raise CaptureError(
                f"batch is {shown(batch)}; expected a function from a batch to (images, labels), such as "
                "lambda batch: (batch['img'], batch['class']), or None"
            )
        if (mean is None) != (std is None):
            given, missing = ("mean", "std") if std is None else ("std", "mean")
            raise CaptureError(f"{given} is given and {missing} is not; pass both as the network was trained, or none")
        if mean is None:
            return cls(batch)
        means, stds = _values("mean", mean), _values("std", std)
        if len(means) != len(stds):
            raise CaptureError(f"mean has {len(means)} values and std {len(stds)}; give one for each channel in both")
        if not all(0 <= value <= 1 for value in means):
            raise CaptureError(
                f"mean is {shown(mean)}; expected that of pixels from 0 to 1: divide mean and std by 255 where they "
                "are of pixels from 0 to 255"
            )
        if not all(value > 0 for value in stds):
            raise CaptureError(f"std is {shown(std)}; every value must be above 0")
        return cls(batch, means, stds)

    def check_channels(self, images: Tensor, where: str) -> None:
        """Raise CaptureError where mean and std are of another number of channels than images (N, C, H, W)."""
        if len(self.mean) > 1 and (images.ndim != 4 or images.shape[1] != len(self.mean)):
            raise CaptureError(
                f"{where} holds images of shape {tuple(images.shape)}, and mean and std have {len(self.mean)} values; "
                "give one for each channel of (N, C, H, W)"
            )

    def normalised(self, images: Tensor) -> Tensor:
        """Images of pixels in [0, 1] less the mean and over the std; as they are where these are not known."""
        if not self.mean:
            return images
        return (images - _along_channels(self.mean, images)) / _along_channels(self.std, images)


def _along_channels(values: tuple[float, ...], images: Tensor) -> Tensor:
    """One value for all, or one for each channel of (N, C, H, W)."""
    found = torch.tensor(values, dtype=images.dtype, device=images.device)
    return found if len(values) == 1 else found.reshape(1, -1, 1, 1)


def _values(what: str, given: Any) -> tuple[float, ...]:
    single = finite(given)
    values = [single] if single is not None else list(_listed(given))
    numbers = [finite(value) for value in values]
    if not numbers or None in numbers:
        raise CaptureError(
            f"{what} is {shown(given)}; expected a number for each channel, such as (0.485, 0.456, 0.406)"
        )
    return tuple(number for number in numbers if number is not None)


def _listed(given: Any) -> Iterable[Any]:
    """The numbers in a list, an array or a tensor of any shape; nothing where there are none."""
    found = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(found, (list, tuple)):
        return [found] if finite(found) is not None else []
    return [number for item in found for number in (_listed(item) if isinstance(item, (list, tuple)) else [item])]
