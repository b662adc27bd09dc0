"""Local losses against values worked in numpy or by hand, at their extremes, and on batches that have no answer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lwexplain.errors import ConfigError, ModelError
from lwexplain.models.heads.base import pooled
from lwexplain.models.site import Site
from lwexplain.training.losses import infopro, separability, similarity
from lwexplain.training.losses.base import LOSSES, LossSetting
from lwexplain.training.losses.cross_entropy import CrossEntropy
from lwexplain.training.losses.forward_forward import ForwardForward
from lwexplain.training.losses.infopro import InfoPro, supervised_contrastive
from lwexplain.training.losses.predsim import PredSim
from lwexplain.training.losses.separability import Separability, fisher_loss, margin_loss
from lwexplain.training.losses.similarity import Similarity, cosine_similarities
from lwexplain.training.unit import head_loss

BUILT_IN = [name for name in LOSSES.names() if name not in LOSSES.third_party()]
CASES = [
    *((name, {}) for name in BUILT_IN),
    ("infopro", {"kind": "softmax"}),
    ("separability", {"measure": "fisher"}),
]
MAPS, TOKENS, VECTOR = (12, 4, 4), (5, 12), (12,)
CLASSES = 3
FOLLOWING = ((16, 2, 2), (16, 2, 2))

DEGENERATE_LABELS = {
    "one class": [1, 1, 1, 1, 1, 1],
    "each class once": [0, 1, 2],
    "one alone": [0, 0, 1, 1, 2],
    "one sample": [2],
}


@pytest.fixture
def build(site_of):
    """Make a loss after a first stage of ``shape``, with the same parameters each time."""

    def make(name, shape=MAPS, num_classes=CLASSES, following=FOLLOWING, label_smoothing=0.0, **options):
        site = site_of(shape, num_classes, following=following, image_shape=(2, 8, 8))
        torch.manual_seed(0)
        setting = LossSetting(site, label_smoothing, mean=(0.4, 0.5), std=(0.2, 0.3))
        return LOSSES.create(name, setting, options=options)

    return make


def batch(labels, shape=MAPS, seed=0):
    """Features after a ReLU, and images, for ``labels``."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(labels), *shape, generator=generator).relu()
    images = torch.randn(len(labels), 2, 8, 8, generator=generator)
    return torch.tensor(labels), features, images


def logits_of(features):
    """A fixed linear head."""
    generator = torch.Generator().manual_seed(7)
    rows = pooled(features)
    return rows @ torch.randn(rows.shape[1], CLASSES, generator=generator)


def value_of(loss, labels, features, images):
    return loss(logits_of(features), labels, features, images)


def setting_of(shape, num_classes, following=((1,),), image_shape=(1, 4, 4)):
    return LossSetting(Site(image_shape, (tuple(shape), *following), 1, num_classes))


# ---------------------------------------------------------------------- every loss


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_loss_falls_when_the_features_follow_its_gradient(build, name, options):
    """Features as free parameters, a few steps of gradient descent of a fixed length."""
    loss = build(name, **options)
    labels, features, images = batch([0, 1, 2] * 6)
    features.requires_grad_()
    first = value_of(loss, labels, features, images)
    value = first
    for _ in range(20):
        (gradient,) = torch.autograd.grad(value, features)
        step = 0.05 * features.norm() * gradient / gradient.norm().clamp_min(1e-12)
        features = (features - step).detach().requires_grad_()
        value = value_of(loss, labels, features, images)
    assert float(value.detach()) < 0.9 * float(first.detach()) - 0.01


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("labels", DEGENERATE_LABELS.values(), ids=list(DEGENERATE_LABELS))
@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_loss_and_its_gradients_are_finite_on_degenerate_batches(build, name, options, labels, dead):
    """Also where one sample's features are all 0 and another's all equal."""
    loss = build(name, **options).train(len(labels) > 1)
    labels, features, images = batch(labels)
    if dead:
        features[0] = 0.0
        features[-1] = 0.7
    features.requires_grad_()
    value = value_of(loss, labels, features, images)
    value.backward()
    assert value.shape == ()
    assert bool(value.isfinite())
    for tensor in (features, *loss.parameters()):
        assert tensor.grad is None or bool(tensor.grad.isfinite().all())
        assert tensor.grad is None or float(tensor.grad.norm()) < 1e4


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("constant", [0.0, 0.7])
def test_features_that_are_all_the_same_give_no_gradient_to_speak_of(build, name, options, constant):
    loss = build(name, **options)
    labels, features, images = batch([0, 0, 1, 1, 2])
    features = features.fill_(constant).requires_grad_()
    value = value_of(loss, labels, features, images)
    value.backward()
    assert bool(value.isfinite())
    assert features.grad is None or float(features.grad.norm()) < 10


@pytest.mark.parametrize(("name", "options"), CASES)
def test_features_that_are_not_numbers_show_in_the_value(build, name, options):
    labels, features, images = batch([0, 0, 1, 1, 2])
    features[1, 0] = math.nan
    assert bool(value_of(build(name, **options), labels, features, images).isnan())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_order_of_the_samples_does_not_matter(build, name, options):
    loss = build(name, **options)
    labels, features, images = batch([0, 1, 2, 0, 1, 2, 0, 0])
    expected = value_of(loss, labels, features, images)
    for seed in range(5):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        value = value_of(loss, labels[order], features[order], images[order])
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("shape", [MAPS, (12, 1, 1), TOKENS, VECTOR])
@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "infopro"])
def test_maps_tokens_and_rows_are_taken(build, name, shape):
    loss = build(name, shape)
    labels, features, images = batch([0, 0, 1, 1, 2, 2], shape)
    value = value_of(loss, labels, features.requires_grad_(), images)
    value.backward()
    assert bool(value.isfinite())
    assert float(features.grad.norm()) > 0


@pytest.mark.parametrize(("name", "options"), CASES)
def test_under_bf16_the_value_is_float32_and_near(build, name, options):
    loss = build(name, **options)
    labels, features, images = batch([0, 0, 1, 1, 2, 2])
    features = features.bfloat16()
    expected = value_of(loss, labels, features.float(), images)
    with torch.autocast("cpu", torch.bfloat16):
        value = value_of(loss, labels, features, images)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["forward_forward", "separability"])
def test_what_has_no_parameters_is_computed_in_full_precision_under_bf16(build, name):
    loss = build(name)
    labels, features, images = batch([0, 0, 1, 1, 2, 2])
    features = features.bfloat16()
    expected = value_of(loss, labels, features.float(), images)
    with torch.autocast("cpu", torch.bfloat16):
        value = value_of(loss, labels, features, images)
    assert value == expected


@pytest.mark.parametrize(
    ("module", "name", "options"),
    [
        (similarity, "similarity", {}),
        (similarity, "predsim", {"beta": 1.0}),
        (separability, "separability", {}),
        (separability, "separability", {"measure": "fisher"}),
        (infopro, "infopro", {}),
    ],
)
def test_losses_that_compare_samples_see_the_rows_of_all_processes(build, monkeypatch, module, name, options):
    """Two processes with the same rows: the value is that of one process with these rows twice."""
    loss = build(name, **options)
    labels, features, images = batch([0, 0, 1, 1, 2, 2])
    twice = [torch.cat([part, part]) for part in (labels, features, images)]
    expected = value_of(loss, *twice)
    monkeypatch.setattr(module, "all_rows", lambda rows: torch.cat([rows, rows]))
    torch.testing.assert_close(value_of(loss, labels, features, images), expected)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_first_line_of_a_loss_reads_alone(name):
    line = LOSSES.summary(name)
    assert line.endswith(".")
    assert len(line) < 120


@pytest.mark.parametrize(
    ("name", "options", "reads_logits", "uses_images"),
    [
        ("cross_entropy", {}, True, False),
        ("similarity", {}, False, False),
        ("predsim", {}, True, False),
        ("separability", {}, False, False),
        ("forward_forward", {}, False, False),
        ("infopro", {}, False, True),
        ("infopro", {"kind": "softmax"}, True, True),
        ("infopro", {"kind": "softmax", "discrimination": [0, 1]}, False, True),
        ("infopro", {"reconstruction": [0, 0]}, False, False),
        ("infopro", {"following": ()}, True, False),
    ],
)
def test_a_loss_says_what_it_reads(build, name, options, reads_logits, uses_images):
    loss = build(name, **options)
    assert (loss.reads_logits, loss.uses_images) == (reads_logits, uses_images)
    labels, features, images = batch([0, 0, 1, 1])
    logits = logits_of(features).requires_grad_()
    loss(logits, labels, features.requires_grad_(), images.requires_grad_()).backward()
    assert (logits.grad is not None, images.grad is not None) == (reads_logits, uses_images)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("predsim", {"beta": 1.5}, r"loss_options.beta=1.5 must be a number from 0 to 1"),
        ("predsim", {"beta": True}, r"loss_options.beta=True must be"),
        ("infopro", {"kind": "contrastive"}, r"loss_options.kind='contrastive' .* did you mean 'contrast'"),
        ("infopro", {"temperature": 0}, r"loss_options.temperature=0 must be a number above 0"),
        ("infopro", {"temperature": "hot"}, r"loss_options.temperature='hot' must be"),
        ("infopro", {"reconstruction": 1.0}, r"loss_options.reconstruction=1.0 must be two numbers"),
        ("infopro", {"discrimination": [0, -1]}, r"loss_options.discrimination=\[0, -1\] must be two numbers"),
        ("infopro", {"reconstruction": [0, 1], "discrimination": [0, 1]}, r"both 0 at stage 1"),
        ("separability", {"measure": "fischer"}, r"loss_options.measure='fischer' .* did you mean 'fisher'"),
        ("separability", {"grid": 0}, r"loss_options.grid=0 must be a whole number of at least 1"),
        ("separability", {"margin": math.nan}, r"loss_options.margin=nan must be a number above 0"),
    ],
)
def test_a_wrong_option_is_named_with_the_value_found(build, name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **options)


# ---------------------------------------------------------------------- cross-entropy


def test_cross_entropy_is_the_mean_negative_log_likelihood():
    """Worked by hand: logits (0, log 3) give the second class the probability 3/4."""
    logits = torch.tensor([[0.0, math.log(3)]])
    value = CrossEntropy(setting_of((2,), 2))(logits, torch.tensor([1]), logits, logits)
    assert float(value) == pytest.approx(-math.log(0.75))


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    log_p = torch.log_softmax(logits, 1)[0]
    expected = -(0.7 * log_p[1] + 0.3 * log_p.mean())
    setting = LossSetting(setting_of((3,), 3).site, label_smoothing=0.3)
    value = CrossEntropy(setting)(logits, torch.tensor([1]), logits, logits)
    torch.testing.assert_close(value, expected)


# ---------------------------------------------------------------------- similarity and predsim


def similarity_in_numpy(descriptors, labels, num_classes):
    """Mean squared difference of the two matrices of correlation coefficients."""
    target = np.corrcoef(np.eye(num_classes)[labels])
    return np.mean((np.corrcoef(descriptors) - target) ** 2)


def passing_through(loss):
    """The similarity loss with its map set to the identity."""
    weight = loss.map.weight.data.zero_()
    eye = torch.eye(len(weight))
    weight.copy_(eye) if weight.ndim == 2 else weight[:, :, 1, 1].copy_(eye)
    return loss.requires_grad_(False)


def test_similarity_is_the_squared_difference_of_correlation_matrices(build):
    """Of the standard deviations of channels over space, worked with numpy's corrcoef."""
    labels, features, images = batch([0, 2, 1, 1])
    maps = features.double().numpy()
    expected = similarity_in_numpy(maps.std((2, 3)), labels.numpy(), CLASSES)
    value = passing_through(build("similarity"))(images, labels, features, images)
    assert float(value) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "descriptor"),
    [
        ((12, 1, 1), lambda x: x[:, :, 0, 0]),
        ((3, 2, 2), lambda x: x.reshape(len(x), -1)),
        (TOKENS, lambda x: x.mean(1)),
        (VECTOR, lambda x: x),
    ],
)
def test_similarity_compares_the_values_where_there_is_no_space(build, shape, descriptor):
    labels, features, images = batch([0, 2, 1, 1], shape)
    expected = similarity_in_numpy(descriptor(features.double().numpy()), labels.numpy(), CLASSES)
    value = passing_through(build("similarity", shape))(images, labels, features, images)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_similarity_worked_by_hand():
    """Two samples of two classes with opposite features: the matrices agree. Alike: they differ by 2 off the
    diagonal, so the mean of squares is 2 * 4 / 4."""
    loss = passing_through(Similarity(setting_of((2,), 2)))
    labels, images = torch.tensor([0, 1]), torch.zeros(2, 1, 4, 4)
    opposite = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    alike = torch.tensor([[1.0, 0.0], [5.0, 2.0]])
    assert float(loss(images, labels, opposite, images)) == pytest.approx(0.0, abs=1e-12)
    assert float(loss(images, labels, alike, images)) == pytest.approx(2.0)


def test_a_row_without_variation_is_similar_to_none_and_gets_no_gradient():
    rows = torch.tensor([[0.3, 0.3, 0.3], [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]], requires_grad=True)
    matrix = cosine_similarities(rows)
    torch.testing.assert_close(matrix.detach(), torch.diag(torch.tensor([0.0, 1.0, 0.0])))
    (matrix - 1).square().sum().backward()
    assert rows.grad[[0, 2]].abs().sum() == 0


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.99, 1.0])
def test_predsim_is_cross_entropy_and_beta_times_similarity(build, beta):
    labels, features, images = batch([0, 2, 1, 1])
    similar = value_of(build("similarity"), labels, features, images).item()
    crossed = value_of(build("cross_entropy", label_smoothing=0.1), labels, features, images).item()
    value = value_of(build("predsim", label_smoothing=0.1, beta=beta), labels, features, images)
    assert value.item() == pytest.approx(crossed + beta * similar, rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.99, 1.0])
def test_beta_is_the_weight_of_similarity_in_what_a_stage_learns_from_predsim(build, beta):
    """The default gives cross-entropy a hundredth; a known copy of the method has the two the wrong way round."""
    labels, features, images = batch([0, 2, 1, 1])
    head = nn.Sequential(nn.Flatten(), nn.Linear(features[0].numel(), 3))

    def gradients(name, **options):
        x = features.clone().requires_grad_()
        head.zero_grad()
        value, _ = head_loss(head, build(name, **options), x, labels, images)
        value.backward()
        return x.grad, head[1].weight.grad.clone()

    crossed, of_head = gradients("cross_entropy")
    similar, _ = gradients("similarity")
    mixed, of_head_too = gradients("predsim", beta=beta)
    torch.testing.assert_close(mixed, (1 - beta) * crossed + beta * similar)
    torch.testing.assert_close(of_head_too, of_head, msg="the head learns at the full rate")


def test_predsim_by_default_is_mostly_similarity():
    assert PredSim(setting_of((4,), 2)).beta == 0.99


# ---------------------------------------------------------------------- separability


def fisher_in_numpy(rows, labels, smoothing=separability.SMOOTHING):
    """By the definition of the scatters, one class after the other."""
    within = sum(((rows[labels == k] - rows[labels == k].mean(0)) ** 2).sum() for k in np.unique(labels))
    total = ((rows - rows.mean(0)) ** 2).sum()
    return math.log(within / total + smoothing) - math.log((total - within) / total + smoothing)


def test_fisher_is_the_log_ratio_of_the_scatters_of_the_pooled_features(build):
    """Of the means over the quarters of each map."""
    labels, features, images = batch([0, 2, 1, 1, 0, 2, 2])
    x = features.double().numpy()
    quarters = [x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 2) for j in (0, 2)]
    expected = fisher_in_numpy(np.concatenate(quarters, 1), labels.numpy())
    value = value_of(build("separability", measure="fisher"), labels, features, images)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_fisher_worked_by_hand():
    """Classes at -1, 1 and 5, 7 on a line: S_w = 4, S_b = 4 * 9."""
    rows, labels = torch.tensor([[-1.0], [1.0], [5.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    assert float(fisher_loss(rows, labels, 2)) == pytest.approx(math.log(0.1 + 1e-3) - math.log(0.9 + 1e-3), rel=1e-5)
    assert float(fisher_loss(rows, labels, 2)) == pytest.approx(math.log(4 / 36), abs=0.02)


def test_fisher_is_least_for_classes_that_are_points_and_most_for_one_class():
    rows, labels = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 0, 1])
    extreme = math.log(1e-3) - math.log(1 + 1e-3)
    assert float(fisher_loss(rows, labels, 2)) == pytest.approx(extreme, rel=1e-3)
    assert float(fisher_loss(rows, torch.zeros(3, dtype=torch.long), 2)) == pytest.approx(-extreme, rel=1e-3)


def test_fisher_is_won_by_one_wide_gap_where_the_margin_is_not():
    """Three classes on a line at 0, 10, 20 are all apart; at 0, 0, 90 two are one, yet the ratio prefers it."""
    labels, spread = torch.arange(12) % 3, torch.linspace(-1, 1, 12)
    apart, merged = (torch.tensor(places)[labels, None] + spread[:, None] for places in ([0, 10, 20], [0, 0, 90]))
    assert fisher_loss(merged, labels, 3) < fisher_loss(apart, labels, 3)
    assert margin_loss(merged, labels, 0.5) > margin_loss(apart, labels, 0.5) == 0


def margin_in_numpy(rows, labels, margin):
    """Sample by sample, with squared distances to all others."""
    hinges = []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        hits = [((rows[i] - rows[j]) ** 2).sum() for j in others if labels[j] == labels[i]]
        misses = [((rows[i] - rows[j]) ** 2).sum() for j in others if labels[j] != labels[i]]
        if hits and misses:
            hit, miss = min(hits), min(misses)
            hinges.append(max(0.0, margin - (miss - hit) / (miss + hit)))
    return sum(hinges) / len(hinges)


def test_margin_is_the_hinge_on_the_relative_distance_to_hit_and_miss():
    labels, rows, _ = batch([0, 2, 1, 1, 0, 2, 2], (6,))
    expected = margin_in_numpy(rows.double().numpy(), labels.numpy(), 0.8)
    assert float(margin_loss(rows, labels, 0.8)) == pytest.approx(expected, rel=1e-5)


def test_margin_worked_by_hand():
    """At 0 and 1 (one class) and 3 (another): hit 1; miss 9 and 4; (9 - 1) / 10 and (4 - 1) / 5; 3 is alone."""
    rows, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
    assert float(margin_loss(rows, labels, 0.7)) == pytest.approx((0 + 0.1) / 2, rel=1e-5)


def test_margin_is_nothing_for_classes_that_are_points_and_the_margin_for_one_point():
    rows, labels = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    assert float(margin_loss(rows, labels, 1.0)) == 0.0
    assert float(margin_loss(torch.ones(4, 2), labels, 0.5)) == 0.5


@pytest.mark.parametrize("loss", [lambda x, y: fisher_loss(x, y, 3), lambda x, y: margin_loss(x, y, 0.5)])
def test_one_class_only_gives_no_gradient(loss):
    _, rows, _ = batch([1] * 5, (6,))
    loss(rows.requires_grad_(), torch.ones(5, dtype=torch.long)).backward()
    assert float(rows.grad.norm()) < 1e-3


@pytest.mark.parametrize("loss", [lambda x, y: fisher_loss(x, y, 3), lambda x, y: margin_loss(x, y, 0.5)])
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), power=st.integers(-6, 6), offset=st.floats(-5, 5))
def test_separability_knows_neither_scale_nor_place(loss, seed, power, offset):
    generator = torch.Generator().manual_seed(seed)
    rows, labels = torch.randn(10, 4, generator=generator), torch.arange(10) % 3
    expected = loss(rows, labels)
    torch.testing.assert_close(loss(rows * 10.0**power, labels), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss(rows + offset, labels), expected, rtol=1e-3, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_separability_does_not_know_which_class_is_which(data):
    names = torch.tensor(data.draw(st.permutations(range(4))))
    labels, rows, _ = batch([0, 3, 1, 1, 2, 0, 3, 2, 1], (5,))
    torch.testing.assert_close(fisher_loss(rows, names[labels], 4), fisher_loss(rows, labels, 4))
    torch.testing.assert_close(margin_loss(rows, names[labels], 0.5), margin_loss(rows, labels, 0.5))


@pytest.mark.parametrize(("grid", "size"), [(1, 12), (3, 108), (4, 192), (9, 192)])
def test_grid_is_the_side_of_the_pooled_map_up_to_that_of_the_map(grid, size):
    loss = Separability(setting_of(MAPS, CLASSES), grid=grid)
    assert loss.describe(torch.zeros(2, *MAPS)).shape == (2, size)


# ---------------------------------------------------------------------- forward-forward


def test_forward_forward_is_cross_entropy_of_the_energy_in_each_group_of_channels():
    """Seven channels for three classes: groups of 3, 2 and 2, worked in numpy."""
    labels, features, images = batch([0, 2, 1, 1], (7, 2, 2))
    squares = features.double().numpy() ** 2
    squares /= squares.mean((1, 2, 3), keepdims=True)
    groups = squares[:, :3], squares[:, 3:5], squares[:, 5:]
    goodness = np.stack([group.mean((1, 2, 3)) for group in groups], 1)
    log_p = goodness - np.log(np.exp(goodness).sum(1, keepdims=True))
    expected = -log_p[np.arange(4), labels.numpy()].mean()
    value = ForwardForward(setting_of((7, 2, 2), 3))(images, labels, features, images)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_forward_forward_by_hand():
    """Two classes of one unit: all energy in the right one gives goodness (2, 0), in both alike (1, 1)."""
    loss, images = ForwardForward(setting_of((2,), 2)), torch.zeros(1, 1, 4, 4)
    right, both = torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 2.0]])
    label = torch.tensor([0])
    assert float(loss(images, label, right, images)) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(loss(images, label, both, images)) == pytest.approx(math.log(2))
    assert float(loss(images, label, 0 * both, images)) == pytest.approx(math.log(2))


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_scale_of_a_sample_does_not_change_its_goodness(scale):
    loss = ForwardForward(setting_of(MAPS, CLASSES))
    _, features, _ = batch([0, 1])
    torch.testing.assert_close(loss.goodness(scale * features), loss.goodness(features))


@pytest.mark.parametrize("shape", [(9, 2, 2), (5, 9), (9,)])
def test_forward_forward_needs_a_channel_for_each_class(shape):
    with pytest.raises(ModelError, match=r"each of the 10 classes, found 9 channels after stage 1; raise model.width"):
        ForwardForward(setting_of(shape, 10))


# ---------------------------------------------------------------------- infopro


def test_supervised_contrastive_loss_by_its_formula():
    """Equation 2 of Khosla et al. 2020, sample by sample; the last one has no partner and is left out."""
    generator = torch.Generator().manual_seed(1)
    rows = nn.functional.normalize(torch.randn(5, 3, generator=generator), dim=1)
    labels = [0, 1, 0, 1, 2]
    z = rows.double().numpy()
    each = []
    for i in range(4):
        partner = (i + 2) % 4
        every = sum(math.exp(z[i] @ z[a] / 0.2) for a in range(5) if a != i)
        each.append(-math.log(math.exp(z[i] @ z[partner] / 0.2) / every))
    value = supervised_contrastive(rows, torch.tensor(labels), 0.2)
    assert float(value) == pytest.approx(sum(each) / 4, rel=1e-5)


def test_supervised_contrastive_loss_by_hand():
    """Two pairs at right angles, t = 1/2: the partner scores e^2, the two others 1 each. One class, all alike: log 3.
    No pair at all: 0."""
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    pairs = supervised_contrastive(rows, torch.tensor([0, 0, 1, 1]), 0.5)
    assert float(pairs) == pytest.approx(math.log(1 + 2 * math.exp(-2)))
    assert float(supervised_contrastive(rows[[0] * 4], torch.zeros(4), 0.5)) == pytest.approx(math.log(3))
    assert float(supervised_contrastive(rows, torch.arange(4), 0.5)) == 0.0


def test_reconstruction_is_the_binary_cross_entropy_of_the_unnormalised_pixels(build):
    """Worked from the decoder's logits d and pixels p = image * std + mean: log(1 + e^d) - p d."""
    loss = build("infopro", reconstruction=[0.5, 0], discrimination=[0, 1])
    labels, features, images = batch([0, 1, 2])
    enlarged = torch.nn.functional.interpolate(features, (8, 8), mode="bilinear", align_corners=True)
    decoded = loss.decoder(enlarged).detach().double().numpy()
    mean, std = np.array([0.4, 0.5]).reshape(1, 2, 1, 1), np.array([0.2, 0.3]).reshape(1, 2, 1, 1)
    pixels = np.clip(images.double().numpy() * std + mean, 0, 1)
    expected = 0.5 * np.mean(np.log1p(np.exp(decoded)) - pixels * decoded)
    assert value_of(loss, labels, features, images).item() == pytest.approx(expected, rel=1e-5)


def test_the_weights_go_linearly_from_the_first_stage_to_the_last_but_one():
    shapes = ((4, 8, 8),) * 4 + ((4,),)
    losses = [InfoPro(LossSetting(Site((1, 8, 8), shapes, depth, 2))) for depth in range(1, 6)]
    assert [loss.reconstruction for loss in losses] == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    assert [loss.discrimination for loss in losses] == pytest.approx([0.1, 0.4, 0.7, 1, 1])
    assert [loss.decoder is None for loss in losses] == [False, False, False, True, True]
    assert [loss.projection is None for loss in losses] == [False, False, False, False, True]


def test_the_only_local_stage_of_two_has_the_first_weights():
    loss = InfoPro(LossSetting(Site((1, 8, 8), ((4, 8, 8), (4,)), 1, 2)))
    assert (loss.reconstruction, loss.discrimination) == (1.0, 0.1)


@pytest.mark.parametrize("shape", [MAPS, VECTOR])
def test_the_last_stage_learns_from_cross_entropy_alone(build, shape):
    labels, features, images = batch([0, 2, 1, 1], shape)
    loss = build("infopro", shape, following=(), label_smoothing=0.1)
    expected = value_of(build("cross_entropy", shape, label_smoothing=0.1), labels, features, images)
    assert value_of(loss, labels, features, images) == expected
    assert not list(loss.parameters())


def test_softmax_adds_cross_entropy_of_which_a_share_reaches_the_stage(build):
    labels, features, images = batch([0, 2, 1, 1])
    alone, both = (build("infopro", kind="softmax", discrimination=[d, 1]) for d in (0, 0.25))
    added = value_of(both, labels, features, images) - value_of(alone, labels, features, images)
    torch.testing.assert_close(added, value_of(build("cross_entropy"), labels, features, images))
    assert both.logits_share == 0.25


@pytest.mark.parametrize("shape", [TOKENS, VECTOR])
def test_infopro_needs_maps_before_the_last_stage(build, shape):
    with pytest.raises(ModelError, match=r"infopro needs maps \(C, H, W\), found features .* after stage 1"):
        build("infopro", shape)
