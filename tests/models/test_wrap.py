from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lwexplain.config import ModelConfig
from lwexplain.errors import ModelError
from lwexplain.models.build import build_model
from lwexplain.models.wrap import stage_by_names

SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1)}
ARCHS = {"resnet18": 9, "vgg11_bn": 8, "mobilenet_v3_small": 13, "convnext_tiny": 8, "vit_b_16": 12}


@pytest.mark.parametrize("arch", ARCHS)
def test_a_torchvision_model_cut_into_stages_computes_the_same(arch):
    from torchvision.models import get_model

    options = {"image_size": 32} if arch.startswith("vit") else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = get_model(arch, weights=None, num_classes=4, **options).eval()
    ours = build_model(ModelConfig(name="torchvision", options={"arch": arch}), (3, 32, 32), 4, seed=0).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)
    assert ours.depth == ARCHS[arch]
    assert len(ours.state_dict()) == len(theirs.state_dict())


class Skip(nn.Module):
    """A value made before the first cut is used after the second."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        first = self.a(x)
        return self.c(self.b(first.relu()) + first)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(self.a(x))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


def test_a_value_that_skips_a_stage_is_carried_along():
    model = Skip().eval()
    staged = stage_by_names(model, ["a", "b", "c"], (4,), 3)
    x = torch.randn(5, 4)
    torch.testing.assert_close(staged(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(staged.run_stages(x, 0, 2)[0], model.b(model.a(x).relu()), rtol=0, atol=0)


def test_dropout_still_follows_train_and_eval():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    staged = stage_by_names(model, ["1"], (4,), 2)
    x = torch.ones(64, 4)
    assert not torch.equal(staged.train()(x), staged(x))
    assert torch.equal(staged.eval()(x), staged(x))


class Small(nn.Module):
    """A convolution, its mean, and a linear layer; ``FORWARDS`` give it other forwards."""

    def __init__(self):
        super().__init__()
        self.a, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.a(x).mean((2, 3)))


def small_with(forward):
    return type("Small", (Small,), {"forward": forward})()


def images_and_logits_of(model):
    x = torch.randn(4, 3, 12, 12)
    return x, stage_by_names(model, ["a"], (3, 12, 12), 5).eval()(x)


ARGUMENTS = {
    "two with defaults": lambda self, x, mask=None, scale=2.0: Small.forward(self, x) * scale,
    "keyword only": lambda self, x, *, scale=2.0: Small.forward(self, x) * scale,
    "variadic": lambda self, x, *rest, **more: Small.forward(self, x) * 2.0,
    "a default that steers": lambda self, x, twice=True: Small.forward(self, x) * (2.0 if twice else 1.0),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_besides_the_image_take_their_defaults(name):
    model = small_with(ARGUMENTS[name]).eval()
    x, logits = images_and_logits_of(model)
    assert torch.equal(logits, model(x))
    assert torch.equal(logits, Small.forward(model, x) * 2.0)


@dataclass
class Output:
    features: torch.Tensor
    logits: torch.Tensor


def forward_to(form):
    """A forward that returns its features and logits in some form."""

    def forward(self, x):
        features = self.a(x)
        return form(features, self.fc(features.mean((2, 3))))

    return forward


FORMS = {
    "tuple": lambda features, logits: (logits, features),
    "list": lambda features, logits: [logits, features],
    "dict": lambda features, logits: {"features": features, "logits": logits},
    "data class": Output,
    "any object": lambda features, logits: SimpleNamespace(logits=logits),
    "named tuple": namedtuple("Named", "features, logits"),
}


@pytest.mark.parametrize("form", FORMS)
def test_of_several_outputs_the_logits_are_what_the_cut_network_gives(form):
    model = small_with(forward_to(FORMS[form])).eval()
    x, logits = images_and_logits_of(model)
    assert torch.equal(logits, Small.forward(model, x))


MODES = {
    "dropout": lambda self, x: self.fc(F.dropout(self.a(x).mean((2, 3)), 0.5, self.training)),
    "a branch": lambda self, x: (lambda y: self.fc((y + torch.randn_like(y) if self.training else y).mean((2, 3))))(
        self.a(x)
    ),
    "batch norm": lambda self, x: self.fc(
        F.batch_norm(self.a(x), torch.zeros(8), torch.ones(8), training=self.training).mean((2, 3))
    ),
    "an output more": lambda self, x: (lambda y: (y, y) if self.training else y)(Small.forward(self, x)),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("mode", [False, True])
def test_code_that_asks_for_the_mode_follows_it_after_the_cut(name, mode):
    model = small_with(MODES[name]).train(mode)
    staged = stage_by_names(model, ["a"], (3, 12, 12), 5)
    x = torch.randn(4, 3, 12, 12)
    for training in (mode, False, True):
        staged.train(training)
        model.train(training)
        torch.manual_seed(0)
        found = staged(x)
        torch.manual_seed(0)
        wanted = model(x)
        torch.testing.assert_close(found, wanted[0] if isinstance(wanted, tuple) else wanted, rtol=0, atol=0)
        assert all(part.training == training for part in staged.modules())


def test_a_network_that_takes_its_images_by_keyword_is_cut():
    for forward in (
        lambda self, *, pixel_values: Small.forward(self, pixel_values),
        lambda self, scale=1.0, *, frames: Small.forward(self, frames) * scale,
        lambda self, mask=None, images=None: Small.forward(self, images),
        lambda self, **given: Small.forward(self, given["inputs"]),
    ):
        model = small_with(forward).eval()
        images = torch.randn(2, 3, 12, 12)
        staged = stage_by_names(model, ["a"], (3, 12, 12), 5)
        torch.testing.assert_close(staged(images), Small.forward(model, images), rtol=0, atol=0)


def test_a_network_that_can_only_be_evaluated_in_stages_says_so_when_it_is_trained():
    def forward(self, x):
        if self.training and x.sum() > 0:
            x = -x
        return Small.forward(self, x)

    model = small_with(forward).eval()
    staged = stage_by_names(model, ["a"], (3, 12, 12), 5)
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(staged.eval()(x), model(x))
    with pytest.raises(ModelError, match=r"cannot be trained stage by stage, only be evaluated: .*cannot be traced"):
        staged.train()(x)


def test_random_numbers_are_not_frozen_by_the_cut():
    def forward(self, x):
        return Small.forward(self, x) * (torch.rand(1) if self.training else 1.0)

    model = small_with(forward).eval()
    x, logits = images_and_logits_of(model)
    assert torch.equal(logits, model(x))
    with pytest.raises(ModelError, match="draws random numbers between the stages"):
        stage_by_names(model, ["a"], (3, 12, 12), 5).train()(x)


def test_the_size_of_the_batch_may_be_read_before_a_cut_and_used_after_it():
    for read in (lambda x: x.shape[0], lambda x: x.size(0), lambda x: x.size()[0]):

        def forward(self, x, read=read):
            count = read(x)
            return self.fc(self.a(x).mean((2, 3)).reshape(count, -1))

        model = small_with(forward).eval()
        x, logits = images_and_logits_of(model)
        assert torch.equal(logits, model(x))


def test_a_call_of_a_module_that_runs_twice_is_a_stage():
    model = Twice().eval()
    staged = stage_by_names(model, ["a#1", "a#2"], (4,), 4)
    x = torch.randn(3, 4)
    torch.testing.assert_close(staged(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(staged.run_stages(x, 0, 1), model.a(x), rtol=0, atol=0)


def test_the_network_is_left_as_it_was_by_a_cut():
    seen = []

    class Remembering(Small):
        def forward(self, x):
            self.last = self.a(x)
            return self.fc(self.last.mean((2, 3)) + torch.tensor([1.0] * 8))

    model = Remembering().eval()
    model.fc.train()
    model.register_forward_hook(lambda *_: seen.append(1))
    before = dict(vars(model))
    stage_by_names(model, ["a"], (3, 12, 12), 5)
    assert vars(model) == before
    assert [part.training for part in model.modules()] == [False, False, True]


def test_a_cut_that_would_compute_something_else_is_refused():
    model = Small().eval()
    model.forward = lambda x: Small.forward(model, x) + 1  # which a trace of the class does not see
    with pytest.raises(ModelError, match="do not compute what the network does"):
        stage_by_names(model, ["a"], (3, 12, 12), 5)


@pytest.mark.parametrize(
    ("arch", "options", "stages", "channels"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 24}, ["blocks.0", "blocks.1"], [24, 24]),
        ("swin_tiny_patch4_window7_224", SWIN, ["layers.0", "layers.1"], [12, 24]),
        ("mambaout_femto", {"depths": (1, 1, 1, 1)}, ["stages.0", "stages.3"], [48, 288]),
        ("resnet10t", {"drop_rate": 0.5}, ["layer1", "layer4"], [64, 512]),
    ],
)
def test_networks_of_timm_compute_the_same_in_stages(arch, options, stages, channels):
    timm = pytest.importorskip("timm", reason="the extra 'models' is not installed")
    model = timm.create_model(arch, num_classes=5, **options).eval()
    staged = stage_by_names(model, stages, (3, 32, 32), 5)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(staged(x), model(x))
    assert [site.channels for site in staged.sites()] == channels


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_shapes_are_found_of_networks_in_half_and_double_precision(dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    staged = stage_by_names(model.to(dtype), ["0", "1"], (3, 9, 9), 3)
    assert staged.feature_shapes() == [(8, 7, 7), (8, 7, 7)]
    assert staged.feature_dtypes() == [dtype, dtype]


@pytest.mark.parametrize(
    ("model", "names", "words"),
    [
        (Skip(), ["d"], "no module 'd'"),
        (Skip(), [], "at least one"),
        (Skip(), "a", "stages is 'a'; expected a list of module names"),
        (Skip(), 3, "stages is 3; expected a list"),
        (Skip(), ["a", 3], "expected a list of module names"),
        (Skip(), ["b", "a"], r"name them as \['a', 'b'\]"),
        (Skip(), ["a", "b"], "name a later module as the last stage"),
        (Twice(), ["a"], "runs 2 times"),
        (Branching(), ["a"], "cannot be traced"),
        (Twice(), ["a#3"], "runs only 2 times"),
        (small_with(lambda self, x, mask: x), ["a"], "needs mask besides the image"),
        (small_with(lambda self, *, a, b: a), ["a"], "takes a, b, and none of them can be told to be the images"),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 2))), ["0", "0.0"], "lies inside"),
    ],
)
def test_a_cut_that_cannot_be_made_says_why(model, names, words):
    with pytest.raises(ModelError, match=words):
        stage_by_names(model, names, (4,), 3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "torchvision", "options": {"arch": "resnet_18"}}, "no model 'resnet_18'"),
        (
            {"name": "torchvision", "options": {"arch": "alexnet"}},
            "image of shape .3, 32, 32., raised.*data.image_size",
        ),
        ({"name": "torchvision", "options": {"arch": "resnet18", "stages": "layer1"}}, "stages is 'layer1'"),
        ({"name": "torchvision", "options": {"arch": "resnet18", "depth": 3}}, "cannot build 'resnet18'.*depth"),
        ({"name": "torchvision", "width": 16, "options": {"arch": "resnet18"}}, "model.width"),
    ],
)
def test_a_wrong_zoo_model_is_named(config, words):
    with pytest.raises(ModelError, match=words):
        build_model(ModelConfig(**config), (3, 32, 32), 4, seed=0)


@pytest.mark.parametrize("arch", ["alexnet", "squeezenet1_0", "densenet121", "shufflenet_v2_x0_5", "googlenet"])
def test_any_family_of_torchvision_is_built_by_its_name(arch):
    model = build_model(ModelConfig(name="torchvision", options={"arch": arch}), (3, 64, 64), 4, seed=0).eval()
    assert model(torch.randn(2, 3, 64, 64), upto=model.depth).shape == (2, 4)
    assert model.depth >= 5


def test_timm_transformers_take_the_size_of_the_images():
    pytest.importorskip("timm", reason="the extra 'models' is not installed")
    options = {"arch": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 12, "num_heads": 2}
    model = build_model(ModelConfig(name="timm", options=options), (3, 32, 32), 4, seed=0).eval()
    assert model.names == ["blocks.0", "blocks.1"]
    assert model.feature_shapes() == [(5, 12), (5, 12)]


def test_timm_models_are_cut_where_their_feature_info_says():
    pytest.importorskip("timm", reason="the extra 'models' is not installed")
    model = build_model(ModelConfig(name="timm", options={"arch": "resnet10t"}), (3, 32, 32), 4, seed=0).eval()
    assert model.names[-1] == "layer4"
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)
