"""Dots in pairs: what the images hold, and that only windows wider than a distance tell its two directions apart."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from lwexplain.config import DataConfig
from lwexplain.data.dot_pairs import BRIGHTNESS, best_accuracy, dot_pairs
from lwexplain.data.load import load_data
from lwexplain.errors import DataError, UnknownNameError

CONFIG = DataConfig(name="dot_pairs")
ACROSS, DOWN = 0, 1


def test_images_are_shared_evenly_among_two_directions_of_every_distance():
    source = dot_pairs(CONFIG, distances=[2, 5], size=16, samples=400)
    assert source.classes == ["2 across", "2 down", "5 across", "5 down"]
    assert source.train.images.shape == (400, 1, 16, 16)
    assert source.train.images.dtype == torch.uint8
    assert torch.bincount(source.train.labels).tolist() == [100] * 4
    assert source.test is None


def test_the_options_alone_decide_the_images():
    def images(**options):
        return dot_pairs(CONFIG, samples=60, **options).train.images

    assert torch.equal(images(), images())
    assert not torch.equal(images(), images(seed=1))


def test_the_seed_of_a_run_decides_the_split_and_not_the_images():
    one, other = (load_data(DataConfig(name="dot_pairs", options={"samples": 200}), seed) for seed in (0, 1))

    def images(data):
        parts = [part.gather(torch.arange(len(part))) for part in (data.train, data.val, data.test)]
        return sorted(image.numpy().tobytes() for image in torch.cat(parts))

    assert images(one) == images(other)
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(("label", "step"), [(ACROSS, (0, 3)), (DOWN, (3, 0))])
def test_the_second_dot_lies_the_distance_from_the_first_on_a_torus(label, step):
    source = dot_pairs(CONFIG, distances=[3], size=8, pairs=1, samples=200, noise=0.0)
    images = source.train.images[source.train.labels == label, 0]
    assert set(images.unique().tolist()) == {0, round(255 * BRIGHTNESS)}
    assert (images.flatten(1).count_nonzero(dim=1) == 2).all()
    overlap = images.bool() & images.bool().roll(step, dims=(1, 2))
    assert (overlap.flatten(1).sum(dim=1) == 1).all()


def test_the_first_dot_lies_anywhere():
    source = dot_pairs(CONFIG, distances=[3], size=8, pairs=1, samples=6400, noise=0.0)
    counts = source.train.images.bool().sum(dim=(0, 1)).double()
    assert counts.sum() == 2 * 6400
    assert (counts - 200).abs().max() < 5 * 200**0.5


def test_noise_has_the_standard_deviation_asked_for_where_nothing_is_clipped():
    source = dot_pairs(CONFIG, distances=[3], size=8, pairs=1, samples=2000, noise=0.05)
    blank = dot_pairs(CONFIG, distances=[3], size=8, pairs=1, samples=2000, noise=0.0)
    dots = source.train.images[blank.train.images > 0].double() / 255
    assert dots.std().item() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"size": 7}, r"data.options.size is 7; it must be a whole number from 8 to 1024"),
        ({"size": 8.0}, r"data.options.size is 8.0"),
        ({"pairs": 0}, r"data.options.pairs is 0"),
        ({"seed": -1}, r"data.options.seed is -1"),
        ({"pairs": True}, r"data.options.pairs is True"),
        ({"distances": []}, r"data.options.distances is \[\]; it must be a list of different whole numbers"),
        ({"distances": [2, 2]}, r"distances is \[2, 2\]; it must be a list of different"),
        ({"distances": [1.5]}, r"distances is \[1.5\]"),
        ({"distances": [0, 2]}, r"distances=\[0, 2\] must lie from 1 to less than half of the size, 20"),
        ({"distances": [10]}, r"distances=\[10\] must lie from 1 to less than half of the size, 20"),
        ({"samples": 5}, r"data.options.samples is 5; 3 distances need 18"),
        ({"noise": 1.5}, r"data.options.noise is 1.5; it must be a number from 0 to 1"),
    ],
)
def test_options_out_of_range_are_refused(options, complaint):
    with pytest.raises(DataError, match=complaint):
        dot_pairs(CONFIG, **options)


def test_an_unknown_option_is_refused():
    with pytest.raises(UnknownNameError, match="distance"):
        load_data(DataConfig(name="dot_pairs", options={"distance": 3}), 0)


# ---------------------------------------------------------------------- the planted depth


def pair_averages(distance, samples=4000):
    """The average over all positions of the product of two pixels, by image and offset of the two: (N, S, S) on the
    torus; with the labels (N,)."""
    source = dot_pairs(CONFIG, distances=[distance], size=16, pairs=4, samples=samples)
    pixels = source.train.images[:, 0].double() / 255
    products = torch.fft.ifft2(torch.fft.fft2(pixels).abs() ** 2).real / pixels[0].numel()
    return products.numpy(), source.train.labels.numpy()


def within(reach):
    """The offsets inside a window of side ``reach``, one of each pair of opposite ones."""
    return [(down, right) for down in range(reach) for right in range(1 - reach, reach) if (down, right) >= (0, 0)]


def standard_errors_apart(products, labels, offset):
    values = products[:, offset[0], offset[1]]
    one, other = values[labels == ACROSS], values[labels == DOWN]
    return abs(one.mean() - other.mean()) / np.sqrt(one.var() / len(one) + other.var() / len(other))


@pytest.mark.parametrize("distance", [2, 5])
def test_pairs_of_pixels_closer_than_the_distance_are_on_average_alike_in_both_directions(distance):
    products, labels = pair_averages(distance)
    inside = [standard_errors_apart(products, labels, offset) for offset in within(distance)]
    assert max(inside) < 4.5
    assert standard_errors_apart(products, labels, (0, distance)) > 40
    assert standard_errors_apart(products, labels, (distance, 0)) > 40


def test_a_linear_classifier_of_such_averages_guesses_until_the_window_is_wider_than_the_distance():
    products, labels = pair_averages(3)

    def accuracy(reach):
        features = np.stack([products[:, down, right] for down, right in within(reach)], axis=1)
        scaled = (features - features.mean(axis=0)) / features.std(axis=0)
        return cross_val_score(LogisticRegression(C=0.1), scaled, labels, cv=4).mean()

    assert accuracy(3) == pytest.approx(0.5, abs=0.035)
    assert accuracy(4) > 0.99


def test_the_best_accuracy_counts_the_distances_inside_the_field():
    assert [best_accuracy((1, 3, 5), field) for field in (1, 2, 3, 4, 5)] == [1 / 6, 0.5, 0.5, 5 / 6, 5 / 6]
    assert best_accuracy((1, 3, 5), 6) == 1.0
    assert best_accuracy((4,), 4) == 0.5
    assert best_accuracy((4,), 4.5) == 1.0
