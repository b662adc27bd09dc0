"""Images in any common form as a tensor of floats, scaled and normalised as the network takes them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.arguments import shown
from lwexplain.data.batch_form import BatchForm
from lwexplain.errors import CaptureError

SCALED = "images of uint8 were scaled to [0, 1]; pass mean and std where the network was trained on normalised images"
TURNED = "images (N, H, W, C) of uint8 were turned to (N, C, H, W)"

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class GivenImages:
    """Images as a tensor; ``were_pixels`` where they came as uint8, ``notes`` what a person should know of how they
    were read."""

    images: Tensor
    were_pixels: bool = False
    notes: tuple[str, ...] = ()


def read_images(found: Any, wanted: str, form: BatchForm) -> GivenImages:
    """A tensor, an array, or a list of images of one shape; pixels of uint8 become floats in [0, 1], normalised where
    the ``form`` knows mean and std. ``wanted`` begins the text of a CaptureError."""
    images = _as_tensor(found, wanted)
    if images.ndim == 0:
        raise CaptureError(f"{wanted}, found a single number")
    if images.dtype != torch.uint8:
        return GivenImages(images)
    notes = []
    if _has_channels_last(images):
        images = images.permute(0, 3, 1, 2)
        notes.append(TURNED)
    if not form.mean:
        notes.append(SCALED)
    form.check_channels(images, "a batch")
    return GivenImages(form.normalised(images.float() / 255).contiguous(), True, tuple(notes))


def _has_channels_last(images: Tensor) -> bool:
    return images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3, 4)


def _as_tensor(found: Any, wanted: str) -> Tensor:
    if isinstance(found, Tensor):
        return found if type(found) is Tensor else found.as_subclass(Tensor)
    if isinstance(found, (list, tuple)) and found and not isinstance(found[0], (int, float, str)):
        images = [_as_tensor(image, wanted) for image in found]
        shapes = list(dict.fromkeys(tuple(image.shape) for image in images))
        if len(shapes) > 1:
            raise CaptureError(
                f"{wanted}, found images of shapes {shapes[0]} and {shapes[1]}; resize them to one shape"
            )
        return torch.stack(images)
    if isinstance(found, np.ndarray) or hasattr(found, "__array_interface__"):
        array = np.ascontiguousarray(found)
        if array.dtype.kind in "fiub":
            return torch.from_numpy(array if array.flags.writeable else array.copy())
    raise CaptureError(f"{wanted}, found {shown(found)}")


def takes_pictures(model: nn.Module) -> bool:
    """Whether the model has layers that read a tensor without a batch dimension as one image, so that the samples of
    (N, H, W) would be taken for its channels."""
    return any(isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)) for module in model.modules())


def check_images(images: Tensor, where: str, *, pictures: bool) -> None:
    """Raise CaptureError unless images are dense floating-point numbers, all finite, (N, C, H, W) for a model that
    takes ``pictures``; other models may also take rows, sequences or integer tokens (N, T)."""
    shape, kind = tuple(images.shape), str(images.dtype).removeprefix("torch.")
    wanted = "expected images float32 or uint8 (N, C, H, W)"
    if images.layout != torch.strided or images.is_quantized or images.is_meta:
        raise CaptureError(f"{where} holds a sparse, quantised or meta tensor; {wanted} with values in memory")
    if images.ndim < 2 or (pictures and images.ndim != 4):
        remedy = "; add the channel with images[:, None]" if images.ndim == 3 else ""
        raise CaptureError(f"{where} holds images of shape {shape}; {wanted}{remedy}")
    if images.ndim == 2 and images.dtype in (torch.int32, torch.int64) and not pictures:
        return  # tokens
    if images.dtype not in FLOATS:
        raise CaptureError(
            f"{where} holds images of {kind}; {wanted}, scaled and normalised as the model was trained "
            "(for pixels from 0 to 255: images.to(torch.uint8), or images.float() / 255)"
        )
    if not torch.isfinite(images).all():
        bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
        raise CaptureError(f"{where}: {bad} of {len(images)} images hold NaN or infinity; leave them out or mend them")
