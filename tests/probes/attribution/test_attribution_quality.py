"""Completeness, insertion and deletion, sensitivity and randomisation measure what they say."""

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from planted_evidence import EdgeDetector
from scipy.stats import spearmanr
from torch import Tensor, nn

from lwexplain.probes.attribution.base import Explanation, network_of_model, network_of_stage
from lwexplain.probes.attribution.curves import Curves, order_of, random_orders
from lwexplain.probes.attribution.gradients import Saliency
from lwexplain.probes.attribution.memory import Chunker
from lwexplain.probes.attribution.quality import Subject, mean_interval, residuals
from lwexplain.probes.attribution.randomisation import (
    compare_with_shuffled,
    edge_strength,
    has_weights,
    rank_correlations,
    shuffle_weights,
)


def one_pixel_network():
    """Class 1 where the top left pixel is above 1, whatever the others are."""
    return network_of_stage(lambda x: x[:, :, 0, 0], lambda raw: torch.cat([0 * raw, 20 * (raw - 1)], dim=1))


def convolutional_network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3)).eval()


def subject_of(model, n=4, side=8):
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))
    return Subject(network_of_model(model), images, model(images).argmax(1), Chunker(), seed=0)


def test_residuals_are_relative_to_the_rise_with_a_floor():
    found = residuals(torch.tensor([2.2, -1.0, 1e-4]), torch.tensor([2.0, -2.0, 0.0], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.1, 0.5, 0.1], abs=1e-6)


def test_where_one_pixel_decides_its_map_has_the_best_areas():
    network = one_pixel_network()
    images = torch.full((2, 1, 4, 4), 2.0)
    targets = torch.ones(2, dtype=torch.int64)
    best = np.zeros((2, 4, 4))
    best[:, 0, 0] = 1
    steps = 16
    # one pixel a step: all of the curve but the first step, which rises from 0 to 1
    curves = Curves(network, images, targets, Chunker(), steps)
    first = curves.insertion_areas(order_of(best, 0))
    assert first == pytest.approx([1 - 0.5 / steps] * 2, abs=1e-6)
    last = curves.insertion_areas(order_of(-best, 0))
    assert last == pytest.approx([0.5 / steps] * 2, abs=1e-6)
    deleted = curves.deletion_areas(order_of(best, 0))
    assert deleted == pytest.approx([0.5 / steps] * 2, abs=1e-6)
    random = curves.random_areas(0, orders=40)
    assert random == pytest.approx([0.5] * 2, abs=1e-6)  # an order and its reverse stand for each other
    subject = Subject(network, images, targets, Chunker(), 0)
    inserted, taken = subject.gains(Explanation(torch.from_numpy(best)))
    assert inserted.min() > 0.4
    assert taken.min() > 0.4
    inserted, taken = subject.gains(Explanation(torch.from_numpy(-best)))
    assert inserted.max() < -0.4
    assert taken.max() < -0.4


@pytest.mark.parametrize("size", [1, 5, 64])
def test_areas_equal_a_direct_computation(size):
    model = convolutional_network()
    subject = subject_of(model)
    maps = np.random.default_rng(0).normal(size=(4, 8, 8))
    ranks = order_of(maps, 0)
    assert all(sorted(row) == list(range(64)) for row in ranks)
    curves = Curves(subject.network, subject.images, subject.targets, Chunker(size), 8)
    for inserting, found in ((True, curves.insertion_areas(ranks)), (False, curves.deletion_areas(ranks))):
        for i in range(4):
            curve = []
            descending = np.sort(maps[i].ravel())[::-1]
            for k in range(0, 65, 8):
                picked = maps[i] >= descending[k - 1] if k else np.zeros((8, 8), bool)
                mask = torch.from_numpy(picked if inserting else ~picked)
                logits = model((subject.images[i] * mask)[None])[0].detach()
                curve.append(float(logits.softmax(0)[subject.targets[i]]))
            assert found[i] == pytest.approx(np.trapezoid(curve, dx=1 / 8), rel=1e-5)


def test_random_orders_come_with_their_reverses_and_tie_breaking_is_random():
    orders = random_orders(3, 10, 0)
    assert orders.shape == (6, 10)
    assert (orders[:3] + orders[3:] == 9).all()
    tied = order_of(np.zeros((1, 5, 5)), 0)[0]
    assert sorted(tied) == list(range(25))
    assert abs(np.corrcoef(tied, np.arange(25))[0, 1]) < 0.6


def test_sensitivity_equals_captums_for_the_same_noise():
    subject = subject_of(convolutional_network())
    method = Saliency()
    found = subject.sensitivities(method, subject.explain(method))
    generator = torch.Generator().manual_seed(0)
    noises = [(torch.rand(subject.images.shape, generator=generator) * 2 - 1) * 0.02 for _ in range(2)]

    def tensor_of(x):
        return x if isinstance(x, Tensor) else x[0]

    def explanation(x):
        return (method.explain(subject.network, tensor_of(x), subject.targets, Chunker()).maps,)

    def captums(noise):
        return sensitivity_max(explanation, subject.images, lambda x: tensor_of(x) + noise, n_perturb_samples=1)

    expected = torch.stack([captums(noise) for noise in noises]).amax(0)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def test_a_map_that_ignores_the_model_is_the_same_under_any_weights():
    subject = subject_of(convolutional_network())
    edges = EdgeDetector()
    found = subject.randomisation(edges, subject.explain(edges))
    for values in (found.shown, found.strength, found.edges, found.edges_shuffled):
        assert values == pytest.approx(np.ones(4))
    assert found.cause
    method = Saliency()
    found = subject.randomisation(method, subject.explain(method))
    assert found.shown is not None
    assert abs(found.shown.mean()) < 0.4
    assert not found.cause


def test_maps_that_share_half_their_variance_correlate_by_half():
    rng = np.random.default_rng(0)
    image, network, *others = rng.normal(size=(5, 3, 60, 60))
    found = compare_with_shuffled(image + network, [image + other for other in others], torch.zeros(3, 1, 60, 60))
    assert found.shown is not None
    assert found.shown == pytest.approx(0.5, abs=0.05)


def test_where_maps_of_shuffled_weights_are_empty_they_are_counted():
    maps = np.random.default_rng(0).normal(size=(2, 4, 4))
    found = compare_with_shuffled(maps, [0 * maps, np.nan * maps, maps], torch.zeros(2, 1, 4, 4))
    assert found.empty == 4
    assert found.shown == pytest.approx([1 / 3, 1 / 3])


def test_the_edge_detector_is_sobels():
    step = torch.zeros(1, 2, 5, 6)
    step[:, :, :, 3:] = 1
    expected = np.zeros((1, 5, 6))
    expected[:, :, 2:4] = 2 * 4  # two channels, weights 1 + 2 + 1 down the column
    np.testing.assert_allclose(edge_strength(step), expected)


def test_shuffled_weights_are_a_permutation_and_the_model_keeps_its_own():
    model = convolutional_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 8, 8)
    plain = model(images)
    network = shuffle_weights(network_of_model(model), seed=0)
    assert not torch.allclose(network(images), plain)
    assert torch.equal(network(images), shuffle_weights(network_of_model(model), seed=0)(images))
    assert torch.equal(model(images), plain)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert has_weights(network_of_model(model), images[:1])
    assert not has_weights(one_pixel_network(), images[:1])


def test_rank_correlation_is_spearmans_of_maps_without_faint_values():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 6, 5)).round(1) + 0.01
    without = [[np.where(np.abs(x) < 0.1 * np.percentile(np.abs(x), 99), 0, x) for x in maps] for maps in (a, b)]
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(*without, strict=True)]
    np.testing.assert_allclose(rank_correlations(a, b), expected, rtol=1e-12)
    assert rank_correlations(a, 0 * b).tolist() == [0, 0, 0]
    padded = [np.pad(maps, ((0, 0), (0, 1), (0, 0))) for maps in (a, b)]  # pixels that are zero in both do not count
    seen = (without[0][0] != 0) | (without[1][0] != 0)
    assert rank_correlations(*padded)[0] == pytest.approx(expected[0], abs=0.05)
    assert seen.sum() > 20
    np.testing.assert_allclose(rank_correlations(a, -2 * a), -1)


def test_the_interval_of_a_mean_is_students():
    mean, low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (mean, low, high) == pytest.approx((2, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)
    assert mean_interval(np.array([5.0])) == (5.0, None, None)
