"""What the zero image, to which some maps are relative, is among the images given."""

from collections.abc import Sequence

from torch import Tensor

NEAR = 0.1
"""How near zero must lie to the mean or the lowest value of the images, as a share of their spread or range."""


def colour_of_zero(mean: Sequence[float], *, were_pixels: bool) -> str:
    """What a zero input is among images that were normalised by ``mean`` (pixels from 0 to 1, one value a channel or
    for all), or without a mean scaled to [0, 1] where they ``were_pixels``; empty where that is not known."""
    if not mean:
        return "black" if were_pixels else ""
    values = [round(255 * value) for value in mean]
    if not any(values):
        return "black"
    if len(set(values)) == 1:
        return f"the mean grey {values[0]} of 255"
    return f"the mean colour ({', '.join(map(str, values))}) of 255"


def zero_image_in_words(images: Tensor, known: str = "") -> str:
    """``zero input`` and what that is: ``known`` where the caller knows, else what these images (N, C, H, W) show.

    Zero is the mean of images that were normalised by their own mean, and black where pixels run from 0 to 1.
    """
    if known:
        return f"zero input, which is {known}"
    values = images.detach().float()
    low, high, mean = float(values.min()), float(values.max()), values.mean((0, 2, 3))
    spread = float(values.std(correction=0))
    if low >= -NEAR * spread and low <= NEAR * high:
        place = "the lowest value (black)" if low == 0 else "about the lowest value"
    elif bool((mean.abs() <= NEAR * spread).all()):
        place = "about their mean"
    else:
        place = "neither their lowest value nor their mean"
    return f"zero input; these images run from {low:.2g} to {high:.2g}, and zero is {place}"
