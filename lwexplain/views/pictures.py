"""Small images for pages: thumbnails and heat maps over images, as data URIs that need no file."""

import base64
import io

import numpy as np
from PIL import Image

from lwexplain.errors import RunError

# Ends and middle of the diverging map (blue: against the class, red: for it).
AGAINST, FOR = np.array([33, 102, 172], dtype=np.float32), np.array([178, 24, 43], dtype=np.float32)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)`` uint8 as ``(H, W, 3)`` uint8."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise RunError(f"an image of shape {image.shape} cannot be shown; expected (H, W), (H, W, 1) or (H, W, 3)")
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def as_grey(image: np.ndarray) -> np.ndarray:
    """Luminance as float32 ``(H, W)`` in [0, 255] (ITU-R BT.601)."""
    return as_rgb(image).astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A signed heat map ``(h, w)`` over the grey ``image``: uint8 ``(H, W, 3)``.

    Red speaks for the explained class, blue against it. The scale is the map's own 99th percentile of
    magnitude; weak values let the image show through.
    """
    heat = np.nan_to_num(np.asarray(heat, dtype=np.float32), posinf=0.0, neginf=0.0)
    if heat.ndim != 2:
        raise RunError(f"a heat map of shape {heat.shape} cannot be shown; expected (H, W)")
    scale = float(np.percentile(np.abs(heat), 99)) or float(np.abs(heat).max()) or 1.0
    heat = np.clip(heat / scale, -1, 1)
    height, width = np.asarray(image).shape[:2]
    if heat.shape != (height, width):
        heat = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR))
    grey = 175 + 0.6 * (as_grey(image) - 128)
    strength = (np.abs(heat) ** 0.8)[..., None]
    colour = np.where(heat[..., None] >= 0, FOR, AGAINST)
    return (grey[..., None] * (1 - strength) + colour * strength).clip(0, 255).astype(np.uint8)


def hatched(image: np.ndarray) -> np.ndarray:
    """The faded grey image under diagonal stripes: a place where there is nothing valid to show."""
    faded = (205 + 0.15 * (as_grey(image) - 128)).clip(0, 255).astype(np.uint8)
    factor = max(1, round(64 / max(faded.shape)))
    large = np.kron(faded, np.ones((factor, factor), dtype=np.uint8))
    rows, columns = np.indices(large.shape)
    return as_rgb(np.where((rows + columns) % 12 < 3, 150, large).astype(np.uint8))


def data_uri(image: np.ndarray, side: int = 72) -> str:
    """PNG data URI, small images enlarged in whole steps (pixels stay sharp) to about ``side`` pixels."""
    picture = Image.fromarray(np.ascontiguousarray(as_rgb(image)).astype(np.uint8))
    factor = side / max(picture.size)
    if factor >= 2:
        picture = picture.resize([s * round(factor) for s in picture.size], Image.Resampling.NEAREST)
    elif factor < 0.5:
        picture.thumbnail((2 * side, 2 * side))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
