"""Pairs of dots whose distance tells the class, so that the depth a network needs is known beforehand.

The generative model. Class ``2 j + o`` stands for the j-th distance and one of two directions (o = 0: along a row,
1: along a column). An image (1, S, S) is dark with ``pairs`` pairs of bright dots: the first dot of each pair lies
anywhere, uniformly and independently, the second one ``distances[j]`` pixels away in the direction, both on a torus.
Gaussian noise of standard deviation ``noise``, independent by pixel, is added, and the result clipped to [0, 1] and
stored as uint8.

Why that plants a depth. The dots inside a window whose side is at most the distance come from different pairs, or are
one dot of a pair: they lie independently and uniformly, whatever the direction. So any function of such windows has the
same expected value, and its average over all positions the same mean, in both directions. A network that averages over
positions and classifies linearly has nothing to go by until the receptive field of its last stage is wider than the
distance. Images of distances beyond the field all look alike to it. With m distances, v of them inside the field, its
best accuracy is (2 v + 1) / (2 m) while v < m, and then near 1. (The averages of several pairs in one image vary
together in a way that depends on the direction: classifiers that are not linear can make something of that, and with
``pairs`` = 1 there is nothing of the kind.)
"""

from collections.abc import Sequence

import torch

from lwexplain.config import DataConfig
from lwexplain.data.dataset import DATASETS, ImageArrays, Source
from lwexplain.data.seeding import keyed_generator
from lwexplain.errors import DataError

BRIGHTNESS = 0.8


@DATASETS.register("dot_pairs")
def dot_pairs(
    config: DataConfig,
    *,
    distances: Sequence[int] = (1, 3, 5),
    size: int = 20,
    pairs: int = 6,
    samples: int = 4000,
    noise: float = 0.1,
    seed: int = 0,
) -> Source:
    """Dots in pairs of known distance, hence of known depth: options distances, size, pairs, samples, noise, seed.

    ``samples`` images in all, shared evenly among the two classes of each distance; no test set of its own. The images
    depend on the options alone, not on the seed of the run. Raises DataError for an option out of range.
    """
    _check(distances, size, pairs, samples, noise, seed)
    classes = [f"{distance} {way}" for distance in distances for way in ("across", "down")]
    labels = torch.arange(samples) % len(classes)
    generator = keyed_generator("dot pairs", seed)
    first = torch.randint(size, (2, samples, pairs), generator=generator)
    step = torch.tensor(distances)[labels // 2, None]
    down = (labels % 2 == 1)[:, None]
    second = torch.stack([first[0] + step * down, first[1] + step * ~down]) % size
    rows, columns = torch.cat([first, second], dim=2)
    pixels = torch.zeros(samples, size * size)
    pixels.scatter_(1, rows * size + columns, BRIGHTNESS)
    pixels += noise * torch.randn(pixels.shape, generator=generator)
    images = pixels.clamp_(0, 1).mul_(255).round_().to(torch.uint8).view(samples, 1, size, size)
    return Source("dot_pairs", classes, ImageArrays(images, labels))


def best_accuracy(distances: Sequence[int], receptive_field: float) -> float:
    """The highest accuracy that a network can reach which averages over positions and sees this many pixels.

    Where every distance lies inside the field it is 1, but for images in which pairs fall together by chance.
    """
    visible = sum(distance < receptive_field for distance in distances)
    return 1.0 if visible == len(distances) else (2 * visible + 1) / (2 * len(distances))


def _check(distances: Sequence[int], size: int, pairs: int, samples: int, noise: float, seed: int) -> None:
    for name, value, low, high in (
        ("size", size, 8, 1024),
        ("pairs", pairs, 1, 1000),
        ("seed", seed, 0, 2**63),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise DataError(f"data.options.{name} is {value!r}; it must be a whole number from {low} to {high}")
    whole = isinstance(distances, Sequence) and all(isinstance(d, int) and not isinstance(d, bool) for d in distances)
    if not whole or not distances or len(set(distances)) < len(distances):
        raise DataError(f"data.options.distances is {distances!r}; it must be a list of different whole numbers")
    if min(distances) < 1 or 2 * max(distances) >= size:
        raise DataError(
            f"data.options.distances={list(distances)} must lie from 1 to less than half of the size, {size}"
        )
    if not isinstance(samples, int) or not 6 * len(distances) <= samples <= 10_000_000:
        raise DataError(f"data.options.samples is {samples!r}; {len(distances)} distances need {6 * len(distances)}")
    if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise <= 1:
        raise DataError(f"data.options.noise is {noise!r}; it must be a number from 0 to 1")
