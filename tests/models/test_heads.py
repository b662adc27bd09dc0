import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lwexplain.config import ModelConfig
from lwexplain.errors import ModelError, UnknownNameError
from lwexplain.models.build import build_model
from lwexplain.models.heads.auglocal import AugLocalHead, sampled_depths
from lwexplain.models.heads.base import HEADS, pooled
from lwexplain.models.heads.mlp_sr import MlpSrHead
from lwexplain.models.site import Site
from lwexplain.models.token_reading import TokenPooling
from lwexplain.models.tokens import TokenGrid

RESNET18 = (
    *[(64, 32, 32)] * 3,
    *[(128, 16, 16)] * 2,
    *[(256, 8, 8)] * 2,
    *[(512, 4, 4)] * 2,
)
"""Features of the stem and of the eight blocks on images of 32 x 32."""

SHAPES = [(16, 28, 28), (16, 1, 1), (16, 2, 2), (6, 17, 29), (8, 1, 5)]


def halved(shape, channels):
    return channels, *(math.ceil(side / 2) for side in shape[1:])


def with_two_stages_to_follow(site_of, shape, num_classes=10):
    one = halved(shape, 12)
    return site_of(shape, num_classes, following=(one, halved(one, 20)))


def in_resnet18(site_of, depth):
    return site_of(RESNET18[depth - 1], 10, before=RESNET18[: depth - 1], following=RESNET18[depth:])


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def blocks(head):
    """Channels and stride of each residual block, read off its first 3x3 convolution."""
    starts = [block[0].conv for block in head.blocks]
    return [(conv.out_channels, conv.stride[0]) for conv in starts]


# ---------------------------------------------------------------------- every head


def test_the_heads_that_come_with_the_package_are_registered():
    assert {"auglocal", "conv", "linear", "mlp_sr"} <= set(HEADS.names())


@pytest.mark.parametrize("name", HEADS.names())
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [False, True])
def test_heads_map_features_to_logits(site_of, name, shape, last):
    site = site_of(shape, 7) if last else with_two_stages_to_follow(site_of, shape, 7)
    head = HEADS.create(name, site)
    assert head(torch.randn(3, *shape)).shape == (3, 7)
    assert head.eval()(torch.randn(1, *shape)).shape == (1, 7)


@pytest.mark.parametrize("name", HEADS.names())
@pytest.mark.parametrize("units", ["block", "group", "layer"])
def test_heads_fit_every_stage_of_a_network(name, units):
    model = build_model(ModelConfig(name="resnet18", width=4, units=units), (3, 17, 29), 5, seed=0)
    for site in model.sites():
        model.set_head(site.depth, HEADS.create(name, site))
    images = torch.randn(2, 3, 17, 29)
    model.eval()
    assert [model(images, upto=depth).shape for depth in model.head_depths] == [(2, 5)] * model.depth


@pytest.mark.parametrize("name", HEADS.names())
def test_gradients_reach_every_parameter_and_the_features(site_of, name):
    torch.manual_seed(0)
    head = HEADS.create(name, with_two_stages_to_follow(site_of, (8, 12, 12)))
    features = torch.randn(16, 8, 12, 12, requires_grad=True)
    F.cross_entropy(head(features), torch.arange(16) % 10).backward()
    reached = {key: parameter.grad for key, parameter in head.named_parameters()} | {"features": features.grad}
    assert [key for key, grad in reached.items() if grad is None or grad.abs().max() < 1e-6] == []


@pytest.mark.parametrize("name", HEADS.names())
@pytest.mark.parametrize("shape", [(8, 12, 12), (8, 1, 1)])
def test_a_sample_is_judged_alone_in_evaluation_mode(site_of, name, shape):
    torch.manual_seed(0)
    head = HEADS.create(name, with_two_stages_to_follow(site_of, shape))
    for _ in range(3):
        head(1 + 2 * torch.randn(16, *shape))
    head.eval()
    one, others = torch.randn(1, *shape), 10 * torch.randn(5, *shape)
    torch.testing.assert_close(head(torch.cat([others, one]))[-1:], head(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("conv", {"width": -3}, ModelError, "training.head_options.width=-3 must be a whole number of at least 1"),
        ("conv", {"width": 0}, ModelError, "training.head_options.width=0"),
        ("conv", {"hidden": "two"}, ModelError, "training.head_options.hidden='two'"),
        ("conv", {"hidden": 0}, ModelError, "training.head_options.hidden=0"),
        ("conv", {"shape": 3}, UnknownNameError, "head 'conv' has no option 'shape'"),
        ("linear", {"hidden": 3}, UnknownNameError, "head 'linear' has no option 'hidden'"),
        ("mlp_sr", {"convolutions": 0}, ModelError, "training.head_options.convolutions=0 must be a whole number"),
        ("mlp_sr", {"convolutions": True}, ModelError, "training.head_options.convolutions=True"),
        ("mlp_sr", {"layers": "three"}, ModelError, "training.head_options.layers='three' must be a whole number"),
        ("mlp_sr", {"layers": -1}, ModelError, "training.head_options.layers=-1"),
        ("mlp_sr", {"layer": 2}, UnknownNameError, "did you mean 'layers'"),
        ("auglocal", {"depth": 0}, ModelError, "training.head_options.depth=0 must be a whole number of at least 1"),
        ("auglocal", {"depth": 1.5}, ModelError, "training.head_options.depth=1.5"),
        ("auglocal", {"taper": -0.1}, ModelError, "training.head_options.taper=-0.1 must be a number from 0 to 1"),
        ("auglocal", {"taper": 1.5}, ModelError, "training.head_options.taper=1.5"),
        ("auglocal", {"taper": float("nan")}, ModelError, "training.head_options.taper=nan"),
        ("auglocal", {"taper": "half"}, ModelError, "training.head_options.taper='half'"),
        ("auglocal", {"taper": True}, ModelError, "training.head_options.taper=True"),
        ("auglocal", {"tapper": 0.5}, UnknownNameError, "did you mean 'taper'"),
    ],
)
def test_an_option_of_a_head_that_does_not_fit_is_named(site_of, name, options, error, words):
    with pytest.raises(error, match=words):
        HEADS.create(name, with_two_stages_to_follow(site_of, (16, 8, 8)), options=options)


@pytest.mark.parametrize("name", ["conv", "mlp_sr", "auglocal"])
@pytest.mark.parametrize("shape", [(9, 16), (16,)])
def test_heads_of_convolutions_refuse_tokens_and_vectors(site_of, name, shape):
    with pytest.raises(ModelError, match=rf"{name} head .*\(C, H, W\).*found \({shape[0]},.*use training\.head=linear"):
        HEADS.create(name, site_of(shape, 3, following=((16, 4, 4),)))


# ---------------------------------------------------------------------- linear and conv


def test_golden_size_of_the_linear_head(site_of):
    assert parameters(HEADS.create("linear", site_of((16, 28, 28)))) == 16 * 10 + 10


def test_golden_sizes_of_the_conv_head(site_of):
    first, second, classifier = 16 * 64 * 9 + 2 * 64, 64 * 64 * 9 + 2 * 64, 64 * 2 * 2 * 10 + 10
    assert parameters(HEADS.create("conv", site_of((16, 28, 28)))) == first + second + classifier
    narrow = HEADS.create("conv", site_of((16, 28, 28)), options={"hidden": 1, "width": 5})
    assert parameters(narrow) == (16 * 5 * 9 + 2 * 5) + (5 * 4 * 10 + 10)


def test_the_linear_head_takes_tokens_and_vectors(site_of):
    assert HEADS.create("linear", site_of((9, 16), 3))(torch.randn(2, 9, 16)).shape == (2, 3)
    assert HEADS.create("linear", site_of((16,), 3))(torch.randn(2, 16)).shape == (2, 3)


# ---------------------------------------------------------------------- mlp_sr


@pytest.mark.parametrize(
    ("shape", "options", "size"),
    [
        # 28 -> 7 -> 2x2, hence 64 units
        ((16, 28, 28), {}, 3 * (16 * 16 + 2 * 16) + 3 * (64 * 64 + 2 * 64) + (64 * 10 + 10)),
        # 4 -> 1, hence 16 units
        ((16, 4, 4), {}, 3 * (16 * 16 + 2 * 16) + 3 * (16 * 16 + 2 * 16) + (16 * 10 + 10)),
        # 5 -> 2, but 3 -> 1, hence 2 x 1 x 16 units
        ((16, 5, 3), {}, 3 * (16 * 16 + 2 * 16) + 3 * (32 * 32 + 2 * 32) + (32 * 10 + 10)),
        (
            (16, 28, 28),
            {"convolutions": 1, "layers": 2},
            (16 * 16 + 2 * 16) + 2 * (64 * 64 + 2 * 64) + (64 * 10 + 10),
        ),
    ],
)
def test_golden_sizes_of_mlp_sr(site_of, shape, options, size):
    assert parameters(HEADS.create("mlp_sr", site_of(shape), options=options)) == size


@pytest.mark.parametrize(
    ("shape", "reduced", "pooled"),
    [
        ((8, 28, 28), (7, 7), (2, 2)),
        ((8, 17, 30), (5, 8), (2, 2)),
        ((8, 2, 2), (1, 1), (1, 1)),
        ((8, 3, 9), (1, 3), (1, 2)),
    ],
)
def test_mlp_sr_convolves_a_quarter_of_the_resolution_and_classifies_two_by_two(site_of, shape, reduced, pooled):
    seen = []
    head = MlpSrHead(site_of(shape))
    for module in head.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[1:])))
    head(torch.randn(2, *shape))
    assert seen == [(8, *reduced)] * 3 + [(8 * pooled[0] * pooled[1],)] * 4


def test_mlp_sr_with_identities_for_layers_is_a_linear_head_on_2x2_means(site_of):
    head = MlpSrHead(site_of((4, 16, 24))).eval()
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight)
        if isinstance(module, nn.Linear) and module is not head.classifier:
            nn.init.eye_(module.weight)
    features = torch.rand(3, 4, 16, 24)
    means = features.reshape(3, 4, 2, 8, 2, 12).mean(dim=(3, 5)).flatten(1)
    weight, bias = head.classifier.weight, head.classifier.bias
    # the six batch norms each divide by sqrt(1 + 1e-5)
    torch.testing.assert_close(head(features), means @ weight.T / (1 + 1e-5) ** 3 + bias, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- auglocal


@pytest.mark.parametrize(
    ("depth", "taper", "expected"),
    [
        # d_l = 2 - l/14, which rounds to 2 up to the last but one; what follows is halved, halves go up
        (2, 0.5, [[5, 9], [6, 9], [6, 9], [7, 9], [7, 9], [8, 9], [8, 9], [9], []]),
        # d_l = 3 - 2l/7: 3, 2.7, 2.4, 2.1, 1.9, 1.6, 1.3, 1
        (3, 1.0, [[4, 6, 9], [4, 7, 9], [6, 9], [7, 9], [7, 9], [8, 9], [9], [9], []]),
        # d_l = 4 - 3l/14: 4, 3.8, 3.6, 3.4, 3.1, 2.9, 2.7, 2.5, of which 4, 3, 2, 1 stages are left from l = 4 on
        (4, 0.5, [[3, 5, 7, 9], [4, 6, 7, 9], [5, 6, 8, 9], [6, 7, 9], [6, 8, 9], [7, 8, 9], [8, 9], [9], []]),
        (1, 0.0, [[9]] * 8 + [[]]),
        (20, 0.0, [list(range(depth + 1, 10)) for depth in range(1, 10)]),
    ],
)
def test_auglocal_samples_evenly_from_the_stages_that_follow(site_of, depth, taper, expected):
    assert [sampled_depths(in_resnet18(site_of, stage), depth, taper) for stage in range(1, 10)] == expected


@given(st.integers(2, 40), st.integers(1, 12), st.floats(0, 1), st.data())
def test_auglocal_samples_upwards_to_the_last_stage_and_no_more_as_it_comes_nearer(stages, depth, taper, data):
    at = data.draw(st.integers(1, stages - 1))
    shapes = ((4, 8, 8),) * stages
    sampled, next_sampled = (sampled_depths(Site((1, 8, 8), shapes, here, 10), depth, taper) for here in (at, at + 1))
    assert sampled == sorted(set(sampled))
    assert at < sampled[0]
    assert sampled[-1] == stages
    assert len(next_sampled) <= len(sampled) <= min(depth, stages - at)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (1, [(128, 2), (512, 4)]),  # from 32 x 32 to stages 5 (16 x 16) and 9 (4 x 4)
        (2, [(256, 4), (512, 2)]),  # to stages 6 (8 x 8) and 9
        (4, [(256, 2), (512, 2)]),  # from 16 x 16 to stages 7 and 9
        (6, [(512, 2), (512, 1)]),  # from 8 x 8 to stages 8 and 9
        (8, [(512, 1)]),
        (9, []),
    ],
)
def test_auglocal_blocks_have_the_channels_and_the_resolution_of_their_stages(site_of, depth, expected):
    head = HEADS.create("auglocal", in_resnet18(site_of, depth))
    assert blocks(head) == expected
    assert head.blocks(torch.randn(2, *RESNET18[depth - 1])).shape == (2, 512, 4, 4)


def test_auglocal_at_full_depth_goes_through_the_resolutions_of_the_network(site_of):
    head = HEADS.create("auglocal", in_resnet18(site_of, 1), options={"depth": 8, "taper": 0})
    assert blocks(head) == [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]


def test_auglocal_strides_over_odd_sides_and_never_over_growing_ones(site_of):
    site = site_of((4, 17, 29), following=((8, 9, 15), (8, 3, 5), (8, 6, 10)))
    head = HEADS.create("auglocal", site, options={"depth": 3, "taper": 0})
    assert blocks(head) == [(8, 2), (8, 3), (8, 1)]
    assert head.blocks[:2](torch.randn(2, 4, 17, 29)).shape == (2, 8, 3, 5)


def test_golden_sizes_of_auglocal(site_of):
    first = (64 * 128 * 9 + 2 * 128) + (128 * 128 * 9 + 2 * 128) + (64 * 128 + 2 * 128)
    second = (128 * 512 * 9 + 2 * 512) + (512 * 512 * 9 + 2 * 512) + (128 * 512 + 2 * 512)
    classifier = 512 * 10 + 10
    assert parameters(HEADS.create("auglocal", in_resnet18(site_of, 1))) == first + second + classifier
    without_shortcut = 2 * (512 * 512 * 9 + 2 * 512)
    assert parameters(HEADS.create("auglocal", in_resnet18(site_of, 8))) == without_shortcut + classifier


def test_auglocal_after_the_last_stage_is_the_linear_head(site_of):
    for shape in [(512, 4, 4), (9, 16), (16,)]:
        head, linear = (HEADS.create(name, site_of(shape, before=((64, 8, 8),))) for name in ("auglocal", "linear"))
        linear.load_state_dict(head.state_dict())
        features = torch.randn(2, *shape)
        assert torch.equal(head(features), linear(features))


@pytest.mark.parametrize("shapes", [[(4, 8, 8)], [(4, 8, 8), (8, 4, 4)]])
def test_auglocal_works_in_a_network_of_one_or_two_stages(shapes):
    sites = [Site((1, 8, 8), tuple(shapes), depth, 10) for depth in range(1, len(shapes) + 1)]
    heads = [AugLocalHead(site, depth=3, taper=1) for site in sites]
    assert [blocks(head) for head in heads] == [[(8, 2)], []][-len(shapes) :]


def test_auglocal_starts_from_the_initial_weights_of_a_resnet(site_of):
    """Kaiming normal by the fan out: variance 2 / (9 x 128) for a 3x3 convolution from 64 to 128 channels."""
    torch.manual_seed(0)
    weight = AugLocalHead(in_resnet18(site_of, 1)).blocks[0][0].conv.weight
    assert weight.shape == (128, 64, 3, 3)
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)


@pytest.mark.parametrize("following", [((16,),), ((9, 16),), ((32, 4, 4), (16,))])
def test_auglocal_refuses_stages_to_follow_that_are_no_maps(site_of, following):
    words = rf"auglocal head after stage 1 .* after stage {1 + len(following)}; use training\.head=linear"
    with pytest.raises(ModelError, match=words):
        HEADS.create("auglocal", site_of((16, 8, 8), following=following))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_is_the_mean_in_training_and_in_evaluation_with_the_same_gradient(memory_format):
    features = torch.randn(4, 6, 5, 3).to(memory_format=memory_format).requires_grad_()
    weights = torch.randn(4, 6)
    (pooled(features) * weights).sum().backward()
    torch.testing.assert_close(pooled(features), pooled(features.detach()))
    torch.testing.assert_close(features.grad, (weights / 15)[:, :, None, None].expand_as(features))


# ---------------------------------------------------------------------- tokens, read as by the network's own head

GRID = TokenGrid(17, 1, 4, 4)
PATCHES, CLASS_TOKEN, BOTH = TokenPooling((), 1, 16), TokenPooling((0,), 1, 0), TokenPooling((0,), 1, 16)


def site_of_tokens(tokens):
    return Site((3, 32, 32), ((17, 6),), 1, 5, GRID, tokens)


@pytest.mark.parametrize(("tokens", "read"), [(PATCHES, range(1, 17)), (CLASS_TOKEN, [0]), (BOTH, range(17))])
@pytest.mark.parametrize("name", ["linear", "mlp_sr", "auglocal"])
def test_a_head_learns_from_the_tokens_that_the_networks_own_head_reads(name, tokens, read):
    head = HEADS.create(name, site_of_tokens(tokens), options={})
    features = torch.randn(4, 17, 6, requires_grad=True)
    logits = head(features)
    assert logits.shape == (4, 5)
    logits.square().sum().backward()
    assert features.grad.abs().sum((0, 2)).nonzero().flatten().tolist() == list(read)


def test_convolutions_see_the_patches_on_their_grid():
    head = HEADS.create("conv", site_of_tokens(PATCHES), options={}).eval()
    maps = torch.randn(2, 6, 4, 4)
    tokens = GRID.from_grid(maps, torch.randn(2, 17, 6))
    torch.testing.assert_close(head(tokens), head.classifier(head.pool(head.convolutions(maps)).flatten(1)))


@pytest.mark.parametrize("tokens", [CLASS_TOKEN, BOTH])
def test_convolutions_are_refused_where_a_class_token_is_read(tokens):
    with pytest.raises(ModelError, match=r"of which the network's head reads a class token; use training.head=linear"):
        HEADS.create("conv", site_of_tokens(tokens), options={})
