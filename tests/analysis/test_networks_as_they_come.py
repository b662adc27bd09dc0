"""Networks in every form in which people have them are analyzed and explained, and stay as they were."""

import contextlib
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import lwexplain as lw
from lwexplain.errors import CaptureError, ProbeError
from lwexplain.models import latency

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3
LOADERS = {"train": [(IMAGES, LABELS)], "val": [(IMAGES, LABELS)]}


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(latency, "SECONDS", 0.001)
    monkeypatch.setattr(latency, "ROUNDS", (2, 2))


class Net(nn.Module):
    """Two stages and a head; ``form`` is what it makes of logits and features, ``context`` what it computes them in."""

    def __init__(self, form=lambda logits, features: logits, context=contextlib.nullcontext):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(8, 3)
        self.form, self.context = form, context

    def classify(self, x):
        with self.context():
            features = self.second(self.first(x))
            return self.form(self.fc(self.drop(features.mean((2, 3)))), features)

    def forward(self, x):
        return self.classify(x)


def taking(forward, **options):
    """The network with another forward."""
    return type("Own", (Net,), {"forward": forward})(**options)


@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor | None = None


class LowRank(nn.Module):
    """A frozen layer with a branch of low rank beside it, as peft puts it in the layer's place."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})

    def forward(self, x, *args, **kwargs):
        return self.base_layer(x, *args, **kwargs) + self.lora_B["default"](self.lora_A["default"](x))


class Adapted(nn.Module):
    """A model of peft: base_model.model is the network, and everything is passed on to it."""

    class Base(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, *args, **kwargs):
            return self.model.forward(*args, **kwargs)

    def __init__(self, model):
        super().__init__()
        model.requires_grad_(False)
        model.fc = LowRank(model.fc)
        self.base_model = self.Base(model)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            return getattr(self.base_model, name)

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


class Added(nn.Module):
    """A parametrization: the weight and a product of rank 1."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(3, 1)), nn.Parameter(torch.randn(1, 8))

    def forward(self, weight):
        return weight + self.left @ self.right


def parametrized():
    model = Net()
    parametrizations.spectral_norm(model.first[0])
    parametrizations.weight_norm(model.second[0])
    parametrize.register_parametrization(model.fc, "weight", Added())
    return model


def changed(change):
    def make():
        model = Net()
        change(model)
        return model

    return make


def compiled(model):
    return torch.compile(model, backend="eager")


def mixed():
    model = taking(lambda self, x: self.fc(self.second(self.first(x.half()).float()).mean((2, 3))))
    model.first.half()
    return model


def with_functions():
    """Keeps functions and objects that are no modules, and calls them on the way."""

    class Scale:
        def __call__(self, x):
            return 2 * x

    model = taking(lambda self, x: self.classify(self.shift(self.scale(x))))
    model.scale, model.shift = Scale(), lambda x: x + 1
    return model


def of_transformers():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    return Net(lambda logits, features: outputs.ImageClassifierOutput(logits=logits, hidden_states=(features,)))


PLAIN = ["first", "second"]
NETWORKS = {
    "a tuple": (lambda: Net(lambda logits, features: (logits, features)), PLAIN),
    "a loss and logits": (lambda: Net(lambda logits, features: (logits.sum(), logits)), PLAIN),
    "a dict": (lambda: Net(lambda logits, features: {"features": features, "logits": logits}), PLAIN),
    "a data class": (lambda: Net(Output), PLAIN),
    "an output of transformers": (of_transformers, PLAIN),
    "images by keyword": (
        lambda: taking(lambda self, *, pixel_values, labels=None: self.classify(pixel_values)),
        PLAIN,
    ),
    "images under any keyword": (lambda: taking(lambda self, *, frames: self.classify(frames)), PLAIN),
    "keywords alone": (lambda: taking(lambda self, **given: self.classify(given["images"])), PLAIN),
    "placeholders": (lambda: taking(lambda self, x, mask=None, *, scale=1.0: self.classify(x * scale)), PLAIN),
    "labels first": (lambda: taking(lambda self, labels=None, pixel_values=None: self.classify(pixel_values)), PLAIN),
    "in training": (lambda: Net().train(), PLAIN),
    "in evaluation": (lambda: Net().eval(), PLAIN),
    "bfloat16": (lambda: Net().bfloat16(), PLAIN),
    "float16": (lambda: Net().half(), PLAIN),
    "float64": (lambda: Net().double(), PLAIN),
    "two precisions": (mixed, PLAIN),
    "frozen": (lambda: Net().requires_grad_(False), PLAIN),
    "partly frozen": (changed(lambda model: model.first.requires_grad_(False)), PLAIN),
    "adapted": (
        lambda: Adapted(taking(lambda self, pixel_values=None, **others: Output(self.classify(pixel_values)))),
        ["base_model.model.first", "base_model.model.second"],
    ),
    "parametrized": (parametrized, PLAIN),
    "DataParallel": (lambda: nn.DataParallel(Net()), PLAIN),
    "DataParallel by its names": (lambda: nn.DataParallel(Net()), ["module.first", "module.second"]),
    "DataParallel by keyword": (
        lambda: nn.DataParallel(taking(lambda self, *, pixel_values: self.classify(pixel_values))),
        ["module.first", "second"],
    ),
    "DataParallel inside": (changed(lambda model: setattr(model, "first", nn.DataParallel(model.first))), PLAIN),
    "compiled": (lambda: compiled(Net()), PLAIN),
    "compiled, by its names": (lambda: compiled(Net()), ["_orig_mod.first", "_orig_mod.second"]),
    "compiled in DataParallel": (lambda: nn.DataParallel(compiled(Net())), ["module._orig_mod.first", "second"]),
    "compiled inside": (changed(lambda model: setattr(model, "first", compiled(model.first))), PLAIN),
    "compiled in place": (changed(lambda model: model.compile(backend="eager")), PLAIN),
    "names of a wrapper that is gone": (Net, ["module.first", "_orig_mod.second"]),
    "images moved by itself": (
        lambda: taking(lambda self, x: self.classify(x.to(next(self.parameters()).device))),
        PLAIN,
    ),
    "functions": (with_functions, PLAIN),
}


def state_of(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(part.training, len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.modules()]
    gradients = [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    return tensors, flags, gradients


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_analyzed_and_explained_and_left_as_it_was(name):
    make, stages = NETWORKS[name]
    model = make()
    tensors, flags, gradients = state_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = lw.analyze_model(model, LOADERS, stages, ["ncm"], quiet=True)
        assert table.attrs["failures"] == []
        assert table.attrs["notes"] == []
        assert [stage.removeprefix("base_model.model.") for stage in table.attrs["stages"]] == PLAIN
        assert {"ncm_accuracy", "head_accuracy", "parameters", "flops", "receptive_field"} <= set(table["metric"])
        plain = lw.attribute(model, [(IMAGES[:2], LABELS[:2])], "saliency")
        layer = lw.attribute(model, [(IMAGES[:2], LABELS[:2])], "grad_cam", layer=stages[-1])
    assert plain.valid.all()
    assert layer.maps.shape == (2, 8, 8)
    after, flags_after, gradients_after = state_of(model)
    assert all(torch.equal(tensor, after[name]) for name, tensor in tensors.items())
    assert flags_after == flags
    assert gradients_after == gradients


def test_wrappers_change_nothing_of_what_is_measured():
    def measured(model, stages):
        table = lw.analyze_model(model, LOADERS, stages, ["ncm"], quiet=True)
        kept = table[~table["metric"].str.contains("latency")]
        return kept[["stage", "metric", "split", "value"]].reset_index(drop=True)

    expected = measured(Net(), PLAIN)
    for model in (nn.DataParallel(Net()), compiled(Net())):
        assert measured(model, PLAIN).equals(expected)
    maps = lw.attribute(Net(), [IMAGES[:2]], "saliency").maps
    assert (lw.attribute(nn.DataParallel(Net()), [IMAGES[:2]], "saliency").maps == maps).all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_forward_without_gradients_is_analyzed_and_explained_by_what_needs_none(context):
    model = Net(context=context)
    assert lw.analyze_model(model, LOADERS, PLAIN, ["ncm"], quiet=True).attrs["failures"] == []
    assert lw.attribute(model, [IMAGES[:2]], "occlusion").valid.all()
    with pytest.raises(ProbeError, match=f"runs under torch.{context.__name__}.*use occlusion"):
        lw.attribute(model, [IMAGES[:2]], "saliency")


def test_a_network_that_needs_more_than_images_says_what():
    model = taking(lambda self, x, mask: self.classify(x * mask))
    for refused, call in (
        (CaptureError, lambda: lw.analyze_model(model, LOADERS, PLAIN, ["ncm"], quiet=True)),
        (ProbeError, lambda: lw.attribute(model, [IMAGES], "saliency")),
    ):
        with pytest.raises(refused, match="needs mask besides the images; wrap it in a module"):
            call()


def test_pixels_in_batches_of_transformers_give_the_table_of_normalised_images():
    pixels = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    images = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    options = {"stages": PLAIN, "probes": ["ncm"], "quiet": True}
    table = lw.analyze_model(Net(), {"train": [(images, LABELS)], "val": [(images, LABELS)]}, **options)
    expected = table.loc[table["metric"] == "ncm_accuracy", "value"].tolist()
    batch = {"pixel_values": pixels, "labels": LABELS.to(torch.int32)}
    turned = (pixels.permute(0, 2, 3, 1).numpy(), LABELS.tolist())
    for item, pick in ((batch, None), (turned, None), ({"data": batch}, lambda item: tuple(item["data"].values()))):
        loaders = {"train": [item], "val": [item]}
        found = lw.analyze_model(Net(), loaders, batch=pick, mean=mean, std=std, **options)
        assert found.loc[found["metric"] == "ncm_accuracy", "value"].tolist() == expected
    noted = lw.analyze_model(Net(), {"train": [batch], "val": [batch]}, **options).attrs["notes"]
    assert noted == [
        "images of uint8 were scaled to [0, 1]; pass mean and std where the network was trained on normalised images"
    ]
