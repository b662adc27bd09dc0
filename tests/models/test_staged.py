import pytest
import torch

from lwexplain.config import ModelConfig
from lwexplain.errors import ConfigError, ModelError, UnknownNameError
from lwexplain.models.build import MODELS, build_model
from lwexplain.models.heads.linear import LinearHead
from lwexplain.models.staged import StagedModel, features_of

FAMILIES = ["resnet10", "resnet18", "resnet34", "slim_resnet18", "vgg11", "cnn"]


def small(name, units="block", shape=(1, 28, 28), **options):
    return build_model(ModelConfig(name=name, width=4, units=units, options=options), shape, 5, seed=0)


def with_heads(model):
    for site in model.sites():
        model.set_head(site.depth, LinearHead(site))
    return model


@pytest.mark.parametrize("units", ["block", "group", "layer"])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 17, 29)])
def test_every_family_takes_grey_and_colour_of_any_size_and_every_unit(name, units, shape):
    model = with_heads(small(name, units, shape)).eval()
    images = torch.randn(2, *shape)
    for depth in range(1, model.depth + 1):
        assert model(images, upto=depth).shape == (2, 5)


@pytest.mark.parametrize("name", FAMILIES)
def test_units_cut_the_same_network_at_different_places(name):
    images = torch.randn(2, 1, 28, 28)
    outputs = [small(name, units).eval().run_stages(images, 0, 99) for units in ("block", "group", "layer")]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    torch.testing.assert_close(outputs[0], outputs[2], rtol=0, atol=0)


@pytest.mark.parametrize(("units", "stages"), [("block", 9), ("group", 5), ("layer", 17)])
def test_resnet18_has_a_stem_and_eight_blocks(units, stages):
    assert small("resnet18", units).depth == stages


@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_168_832 + 5_130), ("vgg11", 9_223_232 + 5_130)])
def test_full_width_networks_have_the_published_number_of_parameters(name, parameters):
    """11,173,962 for ResNet-18 with a 3x3 stem and ten classes."""
    model = build_model(ModelConfig(name=name), (3, 32, 32), 10, seed=0)
    model.set_head(model.depth, LinearHead(model.sites()[-1]))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("width", [16, 64])
def test_the_slim_resnet_has_at_most_a_quarter_of_the_parameters(width):
    full, slim = (
        sum(p.numel() for p in build_model(ModelConfig(name=name, width=width), (3, 32, 32), 10, 0).parameters())
        for name in ("resnet18", "slim_resnet18")
    )
    assert slim <= 0.25 * full


def test_the_slim_resnet_is_at_no_depth_larger_and_somewhere_smaller():
    full, slim = (
        [shape[1] for shape in small(name, shape=(3, 32, 32)).feature_shapes()]
        for name in ("resnet18", "slim_resnet18")
    )
    assert full == [32, 32, 32, 16, 16, 8, 8, 4, 4]
    assert slim == [32, 32, 16, 16, 8, 8, 4]
    assert all(theirs <= ours for theirs, ours in zip(slim, full[: len(slim)], strict=True))


def test_resnet_equals_torchvision_with_the_same_weights():
    """The imagenet stem and the blocks compute what torchvision's ResNet-18 computes."""
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=5).eval()
    ours = build_model(ModelConfig(name="resnet18", options={"stem": "imagenet"}), (3, 64, 64), 5, seed=0)
    ours.set_head(ours.depth, LinearHead(ours.sites()[-1]))
    mine, source = ours.state_dict(), list(theirs.state_dict().values())
    assert [tensor.shape for tensor in mine.values()] == [tensor.shape for tensor in source]
    ours.load_state_dict(dict(zip(mine, source, strict=True)))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(images), theirs(images))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    first, second = small("resnet18"), small("resnet18")
    assert torch.equal(torch.get_rng_state(), before)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


def test_frozen_stages_stay_frozen_after_train():
    model = with_heads(small("resnet18"))
    model.freeze(3)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.body[:3].state_dict().items()}
    for _ in range(3):
        model(torch.randn(8, 1, 28, 28), upto=4).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.body[:3].state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.body[:3].parameters())
    assert model.body[3].training
    model.freeze(0)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_truncated_shares_the_modules_and_keeps_one_head():
    model = with_heads(small("resnet18")).eval()
    short = model.truncated("layer2.0")
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(short(images), model(images, upto="layer2.0"))
    assert short.head_depths == [4]
    assert short.body[0] is model.body[0]


def test_layer_units_hand_the_shortcut_on():
    model = small("resnet18", "layer").eval()
    state = model.run_stages(torch.randn(2, 1, 28, 28), 0, 2)
    assert isinstance(state, tuple)
    assert features_of(state) is state[0]


def test_asking_for_what_is_not_there_is_a_clear_error():
    model = small("resnet18")
    with pytest.raises(ModelError, match=r"no stage 'layer5.0'; did you mean"):
        model.depth_of("layer5.0")
    with pytest.raises(ModelError, match="has no head"):
        model.head(3)
    with pytest.raises(ModelError, match="no stage 10"):
        model.depth_of(10)
    with pytest.raises(ModelError, match="at least one stage"):
        StagedModel({}, (1, 8, 8), 2)
    with pytest.raises(ModelError, match="unknown stem"):
        small("resnet18", stem="odd")


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("cnn", {"depth": 0}, ModelError, "model.options.depth=0 must be a whole number of at least 1"),
        ("cnn", {"depth": "a"}, ModelError, "model.options.depth='a' must be a whole number"),
        ("cnn", {"depth": True}, ModelError, "model.options.depth=True"),
        ("cnn", {"downsample_every": 0}, ModelError, "model.options.downsample_every=0"),
        ("cnn", {"width": 3}, ConfigError, "cannot hold 'width'.*set model.width"),
        ("cnn", {"units": "group"}, ConfigError, "set model.units"),
        ("cnn", {"num_classes": 3}, UnknownNameError, "model 'cnn' has no option 'num_classes'"),
        ("cnn", {"depht": 3}, UnknownNameError, "did you mean 'depth'"),
        ("resnet18", {"strides": 2}, ModelError, "model.options.strides=2 must be a list of positive whole numbers"),
        ("resnet18", {"blocks": "2222"}, ModelError, "model.options.blocks='2222' must be a list"),
        ("resnet18", {"blocks": [2, 2, 0, 2]}, ModelError, "model.options.blocks"),
        ("resnet18", {"blocks": []}, ModelError, "model.options.blocks"),
        ("resnet18", {"factors": [1, 2, 4, -8]}, ModelError, "model.options.factors=.* positive numbers"),
        ("resnet18", {"factors": [1, 2, 4, float("inf")]}, ModelError, "model.options.factors"),
        ("resnet18", {"blocks": [1, 1, 1]}, ModelError, "equal lengths"),
        ("resnet18", {"stem": ["cifar"]}, ModelError, "unknown stem"),
        ("torchvision", {}, ConfigError, "model 'torchvision' needs the option 'arch'; set model.options.arch"),
        ("torchvision", {"arch": "resnet18", "num_classes": 3}, UnknownNameError, "no option 'num_classes'"),
    ],
)
def test_an_option_that_does_not_fit_is_named(name, options, error, words):
    with pytest.raises(error, match=words):
        build_model(ModelConfig(name=name, options=options), (3, 32, 32), 5, seed=0)


def test_a_resnet_may_have_another_number_of_groups():
    assert small("resnet18", blocks=[3, 3, 3], strides=[1, 2, 2], factors=[1, 2, 4]).depth == 10


def test_a_factory_that_makes_no_staged_model_is_refused():
    with MODELS.temporary():
        MODELS.register("odd")(lambda *args, **options: torch.nn.Identity())
        with pytest.raises(ModelError, match="model 'odd' made a Identity, expected a StagedModel"):
            build_model(ModelConfig(name="odd"), (1, 8, 8), 2, seed=0)


def test_all_models_are_registered():
    assert set(FAMILIES) <= set(MODELS.names())
