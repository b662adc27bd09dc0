"""Any module on loaders, without a run directory."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lwexplain as lw
from lwexplain.capture.extract import extract
from lwexplain.errors import CaptureError, UserCodeError
from lwexplain.probes.attribution import AttributionMaps
from lwexplain.views import contents


class Norm:
    """The probe of the README."""

    name = "norm"

    def measure(self, stage):
        return {"mean_norm": float(np.linalg.norm(stage.features["val"], axis=1).mean())}


def rows(table, metric, split="val"):
    found = table[(table["metric"] == metric) & (table["split"] == split) & table["class"].isna()]
    return found.sort_values("depth")


def loaders(n=60, classes=3):
    generator = torch.Generator().manual_seed(0)
    made = {}
    for split in ("train", "val", "test"):
        y = torch.arange(n) % classes
        x = torch.randn(n, 3, 32, 32, generator=generator) + y[:, None, None, None]
        made[split] = [(x[i : i + 20], y[i : i + 20]) for i in range(0, n, 20)]
    return made


def test_analyze_model_needs_no_run_and_leaves_the_model_as_it_was():
    from torchvision.models import mobilenet_v3_small

    model = mobilenet_v3_small(weights=None, num_classes=3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = lw.analyze_model(model, loaders(), ["features.1", "features.8", "avgpool"], ["linear", Norm()])
    assert rows(table, "linear_probe_accuracy")["stage"].tolist() == ["features.1", "features.8", "avgpool"]
    assert len(rows(table, "mean_norm")) == 3
    assert lw.recommend(table).source == "linear_probe"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_analyze_model_counts_costs_of_a_network_that_cannot_be_traced():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            x = self.a(x)
            return self.b(x).mean((2, 3)) if x.sum() > -1e9 else x

    table = lw.analyze_model(Branching(), loaders(), ["a", "b"], ["linear"])
    assert table.attrs["failures"] == []
    parameters = table[table.metric == "parameters"].set_index("stage").value
    assert dict(parameters) == {"a": (27 + 1) * 4 + (4 + 1) * 4, "b": (27 + 1) * 4 + (36 + 1) * 4}


def test_analyze_model_names_a_wrong_stage_and_missing_loaders():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    with pytest.raises(CaptureError, match="no stage '7'"):
        lw.analyze_model(model, loaders(), ["7"], ["linear"])
    with pytest.raises(CaptureError, match=r"missing \['val'\]"):
        lw.analyze_model(model, {"train": loaders()["train"]}, ["0"], ["linear"])
    with pytest.raises(CaptureError, match="only 2 classes"):
        lw.analyze_model(model, loaders(), ["0"], ["linear"], classes=["a", "b"])


def classifier(outputs=3):
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, outputs)]
    return nn.Sequential(*layers)


class Wrapped(nn.Module):
    """A classifier whose logits come back in some form."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = classifier(), form

    def forward(self, x):
        return self.form(self.net(x))


FORMS = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits, torch.zeros(3)),
    "dict": lambda logits: {"features": torch.zeros(len(logits), 7), "logits": logits},
    "object": lambda logits: SimpleNamespace(logits=logits, loss=None),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_networks_own_output_is_the_head_of_the_last_depth(form):
    model, data = Wrapped(FORMS[form]), loaders()
    table = lw.analyze_model(model, data, ["net.0", "net.1"], ["linear"], quiet=True)
    model.eval()
    for split, batches in data.items():
        with torch.no_grad():
            right = torch.cat([model.net(x).argmax(1) == y for x, y in batches])
        found = rows(table, "head_accuracy", split)
        assert found["stage"].tolist() == ["net.1"]
        assert found["value"].item() == pytest.approx(right.double().mean().item())
        assert found["n"].item() == len(right)
        if split == "val":
            assert table.attrs["patterns"]["head"]["counts"].get("1", 0) == int(right.sum())
    assert table.attrs["notes"] == []


def test_features_and_own_output_come_from_one_pass_of_each_image():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.images = classifier(), 0

        def forward(self, x):
            self.images += len(x)
            return self.net(x)

    model = Counting()
    batches = loaders()["train"]
    captured = extract(model, batches, ["net.0"], own_output=True)
    assert model.images == 60 + 1  # one image to see where the channels lie
    assert captured.logits["net.0"].shape == (60, 3)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), r"returns a tensor \(20, 4, 30, 30\)"),
        (classifier(2), "2 columns for 3 classes"),
        (Wrapped(lambda logits: F.pad(logits, (0, 29), value=99.0)), "as in an embedding"),
        (Wrapped(lambda logits: logits * torch.nan), "not finite"),
        (Wrapped(lambda logits: logits.argmax(1)), r"returns a tensor \(20,\)"),
    ],
)
def test_an_output_that_is_no_logits_is_noted_and_left_out(model, reason):
    stage = "net.0" if isinstance(model, Wrapped) else "0"
    table = lw.analyze_model(model, loaders(), [stage], ["ncm"], quiet=True)
    assert rows(table, "head_accuracy").empty
    (note,) = table.attrs["notes"]
    assert note.startswith("the model's own output is not among the measurements: ")
    assert re.search(reason, note)
    assert note in contents.notes(table)


def test_outputs_without_a_class_are_counted_as_classes():
    model = classifier(5)
    table = lw.analyze_model(model, loaders(), ["0"], ["ncm"], quiet=True)
    assert table.attrs["classes"] == ["0", "1", "2", "3", "4"]
    named = lw.analyze_model(model, loaders(), ["0"], ["ncm"], classes=["a", "b", "c"], quiet=True)
    assert named.attrs["classes"] == ["a", "b", "c", "3", "4"]
    with torch.no_grad():
        right = torch.cat([model.eval()(x).argmax(1) == y for x, y in loaders()["val"]])
    assert rows(named, "head_accuracy")["value"].item() == pytest.approx(right.double().mean().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_in_half_or_double_precision_has_features_costs_and_its_own_accuracy(dtype):
    table = lw.analyze_model(classifier().to(dtype), loaders(), ["0", "1"], ["ncm"], quiet=True)
    assert table.attrs["failures"] == []
    convolution, probe, own = 3 * 8 * 9 + 8, 8 * 3 + 3, 32 * 3 + 3
    assert rows(table, "parameters", "none")["value"].tolist() == [convolution + probe, convolution + own]
    assert len(rows(table, "head_accuracy")) == 1


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_stages_with_their_channels_last_are_pooled_over_their_positions(pooling):
    """32 channels on 32 x 32 pixels, which no shape tells apart."""
    model = nn.Sequential(nn.Conv2d(3, 32, 1), ChannelsLast(), nn.Linear(32, 32)).eval()
    keep = Keep()
    data = loaders()
    lw.analyze_model(model, data, ["0", "1", "2"], [keep], pooling=pooling, quiet=True)
    with torch.no_grad():
        raw = torch.cat([model(x) for x, _ in data["val"]])
    expected = raw.mean((1, 2)) if pooling == "mean" else raw.amax((1, 2))
    np.testing.assert_allclose(keep.features["2"], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(keep.features["1"], keep.features["0"], atol=1e-5)


class Keep:
    """Keeps the val features it is shown."""

    name = "keep"

    def __init__(self):
        self.features = {}

    def measure(self, stage):
        self.features[stage.name] = stage.features["val"].copy()
        return {"width": stage.features["val"].shape[1]}


@pytest.mark.parametrize(
    ("arch", "size", "stages"),
    [
        ("mobilenet_v3_small", 64, ["features.0", "features.4.block.1", "features.12", "avgpool"]),
        ("vit_b_16", 32, ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", "encoder.ln"]),
    ],
)
def test_features_of_a_foreign_model_equal_those_of_torchvisions_own_extractor(arch, size, stages):
    from torchvision.models import get_model
    from torchvision.models.feature_extraction import create_feature_extractor

    options = {"image_size": size} if arch == "vit_b_16" else {}
    model = get_model(arch, weights=None, num_classes=2, **options).eval()
    images, labels = torch.randn(4, 3, size, size), torch.tensor([0, 1, 0, 1])
    keep = Keep()
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    table = lw.analyze_model(model, {"train": batches, "val": batches}, stages, [keep])
    assert rows(table, "width")["stage"].tolist() == stages
    with torch.no_grad():
        reference = create_feature_extractor(model, stages)(images)
    for name in stages:
        raw = reference[name]
        pooled = raw.mean((2, 3)) if raw.ndim == 4 else raw[:, 0]  # the class token, which the head reads
        np.testing.assert_allclose(keep.features[name], pooled.numpy(), rtol=0, atol=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def test_no_hook_is_left_behind_when_the_model_raises():
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            self.a(x)
            raise ArithmeticError("in the middle")

    model = Failing()
    with pytest.raises(UserCodeError, match="raised ArithmeticError: in the middle"):
        lw.analyze_model(model, loaders(), ["a", "b"], ["linear"])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_loaders_that_can_be_read_once_are_enough():
    once = {split: iter(batches) for split, batches in loaders().items()}
    table = lw.analyze_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), once, ["0", "1"], ["ncm"])
    assert len(rows(table, "parameters", "none")) == 2


def test_attributions_of_any_module_explain_the_same_images_at_every_stage():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))
    maps = AttributionMaps(methods=["saliency", "integrated_gradients"], checks=["completeness"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = lw.analyze_model(model, loaders(), ["1", "3"], ["linear", maps])
    residuals = rows(table, "integrated_gradients_completeness_residual")["value"]
    assert len(residuals) == 2
    assert (residuals <= 0.01).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_reused_module_is_a_stage_a_call():
    class Reusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.relu(self.conv(self.relu(self.conv(x))))

    table = lw.analyze_model(Reusing(), loaders(), ["relu"], ["ncm"])
    assert table.attrs["stages"] == ["relu#1", "relu#2"]
    assert len(rows(table, "ncm_accuracy")) == 2


@pytest.mark.parametrize("highest", [10_000, 99_999, 2_000_000_000])
def test_labels_that_are_no_class_numbers_are_refused_before_room_is_made_for_them(highest):
    x, y = torch.randn(8, 3, 6, 6), torch.tensor([0, highest] * 4)
    with pytest.raises(CaptureError, match=rf"{highest:,}|{highest}"):
        lw.analyze_model(nn.Sequential(nn.Conv2d(3, 4, 3)), {"train": [(x, y)], "val": [(x, y)]}, ["0"], ["linear"])
