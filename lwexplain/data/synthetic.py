"""Generated textures whose difficulty is a knob.

The generative model, for difficulty d in [0, 1]. Each class k has a prototype P_k (C, S, S): a sum of four
plane waves with random whole frequencies up to 3 cycles an image, random amplitudes and phases, scaled to
mean 0 and standard deviation 1. A sample of class k is

    x = 1/2 + c/4 * [ (1 - w) * T(P_k) + w * T'(P_j) ] + n

    T, T'  toroidal shifts by up to d * S/2 pixels in either axis, drawn anew: class identity is the texture
           and not its place, so a linear classifier fails before a convolutional one does
    w      weight of a distractor, uniform in [0, 0.55 d], where P_j is the prototype of another class drawn
           at random: near d = 1 some samples are more distractor than class, so no classifier is perfect
    c      contrast, uniform in [1 - 0.6 d, 1]
    n      Gaussian noise, independent by pixel, of standard deviation 0.02 + 0.28 d

clipped to [0, 1] and stored as uint8.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lwexplain.config import DataConfig
from lwexplain.data.dataset import DATASETS, ImageArrays, Source
from lwexplain.data.seeding import keyed_generator
from lwexplain.errors import DataError

WAVES = 4
MAX_FREQUENCY = 3


@DATASETS.register("synthetic")
def synthetic(
    config: DataConfig,
    *,
    classes: int = 10,
    size: int = 16,
    channels: int = 1,
    samples: int = 2000,
    difficulty: float = 0.5,
    seed: int = 0,
) -> Source:
    """Generated textures of known difficulty: options classes, size, channels, samples, difficulty, seed.

    ``samples`` images in all, shared evenly among the classes; no test set of its own. The images depend on
    the options alone, not on the seed of the run. Raises DataError for an option out of range.
    """
    _check("classes", classes, int, 2, 1000)
    _check("size", size, int, 8, 1024)
    _check("channels", channels, int, 1, 3)
    _check("samples", samples, int, 3 * classes, 10_000_000)
    _check("difficulty", difficulty, (int, float), 0, 1)
    _check("seed", seed, int, 0, 2**63)
    prototypes = make_prototypes(classes, channels, size, seed)
    labels = torch.arange(samples) % classes
    images = torch.empty((samples, channels, size, size), dtype=torch.uint8)
    generator = keyed_generator("synthetic samples", seed)
    for chunk in torch.arange(samples).split(1024):
        images[chunk] = _draw(prototypes, labels[chunk], difficulty, generator)
    return Source("synthetic", [f"texture {k}" for k in range(classes)], ImageArrays(images, labels))


def make_prototypes(classes: int, channels: int, size: int, seed: int) -> Tensor:
    """float32 (classes, channels, size, size), each of mean 0 and standard deviation 1."""
    generator = keyed_generator("synthetic prototypes", seed)
    shape = (classes, channels, WAVES, 1, 1)
    frequency = torch.randint(-MAX_FREQUENCY, MAX_FREQUENCY + 1, (2, classes, 1, WAVES, 1, 1), generator=generator)
    still = (frequency == 0).all(0)
    frequency[1] += still  # a wave of frequency (0, 0) would be a constant
    amplitude = 0.5 + torch.rand(shape, generator=generator)
    phase = 2 * math.pi * torch.rand(shape, generator=generator)
    axis = torch.arange(size) / size
    angle = 2 * math.pi * (frequency[0] * axis[:, None] + frequency[1] * axis[None, :]) + phase
    pattern = (amplitude * angle.cos()).sum(2)
    pattern = pattern - pattern.mean((2, 3), keepdim=True)
    return pattern / pattern.std((2, 3), keepdim=True).clamp_min(1e-6)


def _draw(prototypes: Tensor, labels: Tensor, difficulty: float, generator: torch.Generator) -> Tensor:
    count, classes = len(labels), len(prototypes)
    others = (labels + torch.randint(1, classes, (count,), generator=generator)) % classes
    weight = 0.55 * difficulty * torch.rand((count, 1, 1, 1), generator=generator)
    contrast = 1 - 0.6 * difficulty * torch.rand((count, 1, 1, 1), generator=generator)
    signal = (1 - weight) * _shift(prototypes, labels, difficulty, generator)
    signal += weight * _shift(prototypes, others, difficulty, generator)
    noise = torch.randn(signal.shape, generator=generator)
    x = 0.5 + contrast / 4 * signal + (0.02 + 0.28 * difficulty) * noise
    return x.mul(255).round().clamp(0, 255).to(torch.uint8)


def _shift(prototypes: Tensor, labels: Tensor, difficulty: float, generator: torch.Generator) -> Tensor:
    size = prototypes.shape[2]
    most = round(difficulty * size / 2)
    moves = torch.randint(-most, most + 1, (2, len(labels), 1), generator=generator)
    rows, columns = (torch.arange(size) + moves) % size
    channel = torch.arange(prototypes.shape[1])[:, None, None]
    return prototypes[labels[:, None, None, None], channel, rows[:, None, :, None], columns[:, None, None, :]]


def _check(option: str, value: Any, kind: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        number = "a whole number" if kind is int else "a number"
        raise DataError(f"data.options.{option}={value!r} must be {number} from {low} to {high}")
