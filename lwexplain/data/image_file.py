"""One image file as 8-bit pixels, by rules that are the same for every file of a data set."""

import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lwexplain.errors import DataError

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

_opening = threading.Lock()


@dataclass(frozen=True)
class Reading:
    """What the files of one data set have in common on their way to 8 bits.

    ``white``: the value of grey pixels of more than 8 bits that becomes 255. ``background``: the grey level (0 to 255)
    behind pixels that are transparent.
    """

    white: int = 65535
    background: int = 255


def decode_image(
    path: Path, channels: int, size: tuple[int, int], resize: bool, reading: Reading | None = None
) -> Tensor:
    """Read one image file as uint8 (C, H, W); raises DataError that names the file."""
    height, width = size
    with opened_image(path) as image:
        if not resize and image.size != (width, height):
            raise DataError(
                f"{spell(path)} is {image.height}x{image.width} pixels, others are {height}x{width}; "
                "set data.image_size to bring all images to one size"
            )
        picture = eight_bit(image, path, reading or Reading()).convert("L" if channels == 1 else "RGB")
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image file, whose header has been read.

    Raises DataError that names the file for whatever goes wrong inside, for what is no regular file, and for more
    pixels than Pillow takes for an attack (``PIL.Image.MAX_IMAGE_PIXELS``, 89 million).
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{spell(path)} is no regular file; replace or remove it")
        with _opening, warnings.catch_warnings():  # the filters of warnings belong to all threads
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(
            f"{spell(path)} has more than the {Image.MAX_IMAGE_PIXELS or 0:,} pixels that are opened safely; "
            "shrink it, or remove it"
        ) from None
    except Exception as error:  # damaged files make the decoders raise nearly anything
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"cannot read the image {spell(path)}: {reason}; replace or remove the file") from None


def eight_bit(image: Image.Image, path: Path, reading: Reading) -> Image.Image:
    """The image with 8 bits a channel and without transparency: what is transparent lies on the background."""
    if image.mode == "F":
        raise DataError(f"{spell(path)} holds floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return Image.fromarray(_scaled(np.asarray(image).astype(np.int64), image, path, reading))
    if not has_alpha(image):
        return image
    picture = with_alpha(image)
    behind = Image.new("RGBA", picture.size, (reading.background,) * 3 + (255,))
    return Image.alpha_composite(behind, picture).convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    """Whether pixels may be transparent: by an alpha channel, or by a colour or palette that stands for it."""
    return image.mode in ALPHA_MODES or "transparency" in image.info


def with_alpha(image: Image.Image) -> Image.Image:
    """An image that has alpha, as RGBA."""
    return image.convert(PREMULTIPLIED.get(image.mode, image.mode)).convert("RGBA")


def spell(path: Path | str) -> str:
    r"""A path as text; bytes that are not UTF-8 are spelled out, as in ``caf\xe9.png``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _scaled(values: np.ndarray, image: Image.Image, path: Path, reading: Reading) -> np.ndarray:
    if values.min(initial=0) < 0:
        raise DataError(f"{spell(path)} holds negative pixels, down to {values.min()}; shift them to 0 and above")
    pixels = ((values.clip(max=reading.white) * 255 + reading.white // 2) // reading.white).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        pixels[values == transparent] = reading.background
    return pixels
