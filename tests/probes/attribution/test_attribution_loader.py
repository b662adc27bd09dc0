"""Any module can be explained over a DataLoader, batch by batch, and is left as it was."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lwexplain.errors import LwexplainError, ProbeError, UserCodeError
from lwexplain.probes.attribution import METHODS, attribute, attribute_batches


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@pytest.fixture
def images():
    return torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize("method", METHODS)
def test_maps_do_not_depend_on_the_batches(model, images, method):
    layer = "0" if method in ("grad_cam", "layer_conductance") else None
    whole = attribute(model, [images], method, layer=layer)
    parts = attribute(model, DataLoader(TensorDataset(images, LABELS), 3), method, layer=layer, chunk=2)
    assert whole.maps.shape == (7, 8, 8)
    assert whole.maps.dtype == np.float32
    np.testing.assert_allclose(parts.maps, whole.maps, rtol=1e-3, atol=1e-5)
    assert parts.targets.tolist() == model.eval()(images).argmax(1).tolist()
    assert parts.index.tolist() == list(range(7))
    complete = method in ("integrated_gradients", "deep_lift", "layer_conductance")
    assert np.isnan(whole.residuals).all() != complete
    if complete:
        assert whole.residuals.max() < (0.01 if method == "integrated_gradients" else 0.1)


def test_batches_come_one_at_a_time(model, images):
    asked = []

    def loader():
        for start in (0, 3, 6):
            asked.append(start)
            yield images[start : start + 3], LABELS[start : start + 3], torch.arange(start, start + 3)[: 7 - start] * 10

    maps = attribute_batches(model, loader(), "saliency")
    assert asked == []
    assert next(maps).index.tolist() == [0, 10, 20]
    assert asked == [0]
    assert [len(part.maps) for part in maps] == [3, 1]


def test_the_class_explained_can_be_chosen(model, images):
    batches = [(images, LABELS)]
    assert attribute(model, batches, "saliency", target="label").targets.tolist() == LABELS.tolist()
    assert attribute(model, batches, "saliency", target=2).targets.tolist() == [2] * 7


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_the_images_and_the_random_state_stay_as_they_are(model, images, broken):
    model.train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    if broken:
        model[6].register_forward_hook(lambda *_: 1 / 0)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    attributes = [set(vars(m)) for m in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    kept, random = images.clone(), torch.get_rng_state()
    for method in METHODS:
        if broken:
            with pytest.raises(UserCodeError, match="ZeroDivisionError"):
                attribute(model, [images], method, layer="0")
        else:
            attribute(model, [images], method, layer="0")
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert [set(vars(m)) for m in model.modules()] == attributes
    after = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    assert after == hooks


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_recorded_where_the_caller_has_switched_them_off(model, images, context):
    expected = attribute(model, [images], "integrated_gradients").maps
    with context():
        found = attribute(model, [images.clone()], "integrated_gradients").maps
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "gradcam"}, "did you mean 'grad_cam'"),
        ({"method": "grad_cam"}, "explains through a layer, and none is named"),
        ({"method": "grad_cam", "layer": "convolution"}, "the model has no layer 'convolution'"),
        ({"method": "grad_cam", "layer": "6"}, r"needs a spatial output; this stage gives \(7, 3\)"),
        ({"target": "class"}, "target is 'class'; expected predicted, label or a class number"),
        ({"target": "label"}, "the batches hold images only"),
        ({"target": 3}, "targets run from 3 to 3; the model has 3 classes"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_what_cannot_be_done_is_said(model, images, options, reason):
    with pytest.raises(ProbeError, match=reason):
        attribute(model, [images], **options)


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([], "hold no images"),
        ([torch.zeros(3, 8, 8)], r"batch 1 holds images of shape \(3, 8, 8\); expected images"),
        ([{"image": 1}], "the images must be a tensor .*, found 1"),
        ([{"picture": 1}], "found a dict with the keys picture"),
        ([(torch.zeros(2, 3, 8, 8), torch.zeros(3))], r"labels must be 2 integers .* found the shape \(3,\)"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 9, 9)], "several sizes"),
    ],
)
def test_batches_that_hold_no_images_are_refused(model, batches, reason):
    with pytest.raises(ProbeError, match=reason):
        attribute(model, batches, "saliency")


def test_images_may_come_in_any_form_and_as_pixels(model):
    pixels = torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.tensor([0, 1, 2, 0])
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.2]
    images = (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = attribute(model, [(images, labels)], "saliency", target="label").maps
    options = {"method": "saliency", "target": "label", "mean": mean, "std": std}
    for batches in (
        [(pixels, labels)],
        [{"pixel_values": pixels, "labels": labels}],
        {"image": pixels, "label": labels},
        [(pixels.permute(0, 2, 3, 1), labels.to(torch.uint8)[:, None])],
    ):
        np.testing.assert_allclose(attribute(model, batches, **options).maps, expected, rtol=1e-4, atol=1e-6)
    picked = attribute(model, [{"a": images, "b": labels}], batch=lambda batch: (batch["a"], batch["b"]), **options)
    np.testing.assert_array_equal(picked.maps, expected)


def test_the_zero_image_is_named_by_mean_and_by_kind(model, images):
    def zero(batches, **options):
        return attribute(model, batches, "integrated_gradients", **options).about

    assert zero([images], mean=(0.5, 0.25, 0), std=(1, 1, 1)).endswith(
        "zero input, which is the mean colour (128, 64, 0) of 255"
    )
    assert zero([images], mean=0.5, std=0.5).endswith("zero input, which is the mean grey 128 of 255")
    assert zero([images], mean=0, std=1).endswith("zero input, which is black")
    assert zero([images.abs().clamp(0, 1).mul(255).byte()]).endswith("zero input, which is black")
    assert "these images run from" in zero([images])


def test_what_the_model_raises_for_one_image_alone_is_passed_on(model, images):
    class Wanting(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            assert len(x) > 1, "give two images"
            return self.model(x)

    with pytest.raises(
        UserCodeError, match=r"the model, given a Tensor float32 \(1, .* raised AssertionError: give two"
    ):
        attribute(Wanting(), [images], "saliency")


def test_mean_and_std_that_make_no_sense_are_refused(model, images):
    for options, reason in (
        ({"mean": [0.5]}, "mean is given and std is not"),
        ({"mean": [0.5] * 4, "std": [0.5] * 4}, "mean and std have 4 values"),
        ({"batch": 3}, "batch is 3; expected a function"),
    ):
        with pytest.raises(ProbeError, match=f"attribute: .*{reason}"):
            attribute(model, [images], "saliency", **options)


class Wrapped(nn.Module):
    """A small classifier that returns its logits in some ``form``, or computes them under some ``context``."""

    def __init__(self, form=lambda logits, features: logits, context=contextlib.nullcontext):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.form, self.context = form, context

    def forward(self, x):
        with self.context():
            features = self.conv(x).relu()
            return self.form(self.linear(features.mean((2, 3))), features)


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "form",
    [
        lambda logits, features: (logits, features),
        lambda logits, features: (features, logits),
        lambda logits, features: [logits],
        lambda logits, features: (logits, features.mean((2, 3))),
        lambda logits, features: {"logits": logits, "pooled": features.mean((2, 3))},
        lambda logits, features: {"out": logits, "aux": logits},
        lambda logits, features: {"anything": logits, "features": features},
        lambda logits, features: Output(logits),
        lambda logits, features: ({"logits": logits}.get("logits"), None),
    ],
)
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "grad_cam", "deep_lift", "occlusion"])
def test_logits_are_found_in_whatever_a_model_returns(images, form, method):
    expected = attribute(Wrapped(), [images], method, layer="conv")
    found = attribute(Wrapped(form), [images], method, layer="conv")
    np.testing.assert_array_equal(found.maps, expected.maps)
    assert found.targets.tolist() == expected.targets.tolist()


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (
            lambda logits, features: {"a": logits, "b": logits},
            r"with 2 tensors that may be logits \(keys a, b\)",
        ),
        (
            lambda logits, features: (features, None),
            r"a tuple of \(7, 4, 6, 6\), NoneType for 7 images",
        ),
        (lambda logits, features: None, "returns NoneType"),
        (lambda logits, features: logits[0], r"a tensor \(3,\)"),
        (lambda logits, features: {}, "a dict with"),
    ],
)
def test_what_holds_no_logits_is_refused_with_what_it_is(images, form, reason):
    with pytest.raises(LwexplainError, match=reason):
        attribute(Wrapped(form), [images], "saliency")


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (Wrapped(context=torch.no_grad), r"runs under torch.no_grad\(\)"),
        (Wrapped(context=torch.inference_mode), r"runs under torch.inference_mode\(\)"),
        (Wrapped(context=lambda: torch.set_grad_enabled(False)), r"runs under torch.no_grad\(\)"),
        (Wrapped(lambda logits, features: logits.detach()), r"calls detach\(\) on a tensor"),
        (Wrapped(lambda logits, features: {"logits": logits.data}), "calls .data on a tensor"),
        (Wrapped(lambda logits, features: logits.round()), ""),
    ],
)
def test_a_forward_pass_that_cuts_gradients_is_named_and_can_still_be_occluded(model, cause, images):
    if cause:
        for method in set(METHODS) - {"occlusion"}:
            with pytest.raises(ProbeError, match=f"carry no gradient to the image, for its forward pass {cause}"):
                attribute(model, [images], method, layer="conv")
    assert np.isfinite(attribute(model, [images], "occlusion").maps).all()


def test_gradients_of_a_part_of_the_network_are_enough_for_grad_cam(images):
    class FrozenBody(Wrapped):
        def forward(self, x):
            with torch.no_grad():
                features = self.conv(x)
            return self.linear(self.relu(features).mean((2, 3)))

    model = FrozenBody()
    model.relu = nn.ReLU()
    found = attribute(model, [images], "grad_cam", layer="relu")
    np.testing.assert_allclose(found.maps, attribute(Wrapped(), [images], "grad_cam", layer="conv").maps, atol=0.5)
    assert found.valid.all()
    with pytest.raises(ProbeError, match="no_grad"):
        attribute(model, [images], "saliency")


@pytest.mark.parametrize(
    ("dtype", "off"), [(torch.bfloat16, 0.1), (torch.float16, 0.02), (torch.float64, 1e-5)], ids=str
)
@pytest.mark.parametrize("method", METHODS)
def test_maps_of_half_and_double_precision_are_those_of_float32(images, method, dtype, off):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    expected = attribute(model, [images], method, layer="1", target=1).maps
    found = attribute(model.to(dtype), [images], method, layer="1", target=1)
    assert found.maps.dtype == np.float32
    apart = np.linalg.norm(found.maps - expected) / np.linalg.norm(expected)
    assert apart < off
    assert all(parameter.dtype == dtype for parameter in model.parameters())


def test_one_batch_may_stand_for_itself(model, images):
    expected = attribute(model, [images], "saliency")
    given = [
        images,
        (images, LABELS),
        [images, LABELS, torch.arange(7)],
        [(images[:3], LABELS[:3]), (images[3:], LABELS[3:])],
        (images[:3], images[3:]),
        (part for part in images.split(2)),
        DataLoader(TensorDataset(images, LABELS), 4),
    ]
    for batches in given:
        np.testing.assert_allclose(attribute(model, batches, "saliency").maps, expected.maps, atol=1e-6)


def test_the_result_is_a_sequence_of_its_images(model, images):
    found = attribute(model, [(images, LABELS, LABELS + 10)], "integrated_gradients")
    assert len(found) == 7
    assert repr(found) == "AttributionBatch(integrated_gradients: 7 maps of 8 x 8, all valid)"
    assert "zero is" in found.about
    singles = list(found)
    assert [single.index.tolist() for single in singles] == [[label + 10] for label in LABELS.tolist()]
    np.testing.assert_array_equal(np.concatenate([single.maps for single in singles]), found.maps)
    assert found[-1].index.tolist() == [10]
    assert found[1:3].targets.tolist() == found.targets[1:3].tolist()
    assert len(found[5:]) == 2
    with pytest.raises(IndexError):
        found[7]


def test_single_maps_that_must_not_be_read_are_noted(images):
    class Jump(nn.Module):
        """A jump that no number of steps integrates, for bright images only."""

        def forward(self, x):
            bright = (x.mean((1, 2, 3)) > 0.5).float()[:, None]
            return torch.cat([x.mean((1, 2, 3))[:, None] + 5 * bright, 0 * bright], dim=1)

    batch = torch.stack([images[0] - images[0].mean() + 0.1, images[1] - images[1].mean() + 2, 0 * images[2]])
    found = attribute(Jump(), [batch], "integrated_gradients", target=0)
    assert found.valid.tolist() == [True, False, False]
    assert found.notes[1].startswith("completeness residual 0.7")
    assert found.notes[2] == "the map is zero everywhere"
    assert "1 valid" in repr(found)
