"""What the zero image, to which some maps are relative, is among the images given."""

from torch import Tensor

NEAR = 0.1
"""How near zero must lie to the mean or the lowest value of the images, as a share of their spread or range."""


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
