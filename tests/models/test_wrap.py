import pytest
import torch
from torch import nn

from lwexplain.config import ModelConfig
from lwexplain.errors import ModelError
from lwexplain.models.build import build_model
from lwexplain.models.wrap import stage_by_names

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
        ({"name": "torchvision", "options": {"arch": "alexnet"}}, "no default stages"),
        ({"name": "torchvision", "options": {"arch": "resnet18", "stages": "layer1"}}, "stages is 'layer1'"),
        ({"name": "torchvision", "options": {"arch": "resnet18", "depth": 3}}, "cannot build 'resnet18'.*depth"),
        ({"name": "torchvision", "width": 16, "options": {"arch": "resnet18"}}, "model.width"),
    ],
)
def test_a_wrong_zoo_model_is_named(config, words):
    with pytest.raises(ModelError, match=words):
        build_model(ModelConfig(**config), (3, 32, 32), 4, seed=0)


def test_timm_models_are_cut_where_their_feature_info_says():
    pytest.importorskip("timm", reason="the extra 'models' is not installed")
    model = build_model(ModelConfig(name="timm", options={"arch": "resnet10t"}), (3, 32, 32), 4, seed=0).eval()
    assert model.names[-1] == "layer4"
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)
