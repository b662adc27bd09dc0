"""Any module can be explained over a DataLoader, batch by batch, and is left as it was."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lwexplain.errors import ProbeError, UserCodeError
from lwexplain.probes.attribution import METHODS, attribute, attribute_batches


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    return torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


@pytest.mark.parametrize("method", METHODS)
def test_maps_do_not_depend_on_the_batches(model: nn.Module, images: Tensor, method: str) -> None:
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


def test_batches_come_one_at_a_time(model: nn.Module, images: Tensor) -> None:
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


def test_the_class_explained_can_be_chosen(model: nn.Module, images: Tensor) -> None:
    batches = [(images, LABELS)]
    assert attribute(model, batches, "saliency", target="label").targets.tolist() == LABELS.tolist()
    assert attribute(model, batches, "saliency", target=2).targets.tolist() == [2] * 7


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_the_images_and_the_random_state_stay_as_they_are(model, images: Tensor, broken: bool) -> None:
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
def test_gradients_are_recorded_where_the_caller_has_switched_them_off(model, images: Tensor, context) -> None:
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
def test_what_cannot_be_done_is_said(model: nn.Module, images: Tensor, options, reason: str) -> None:
    with pytest.raises(ProbeError, match=reason):
        attribute(model, [images], **options)


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([], "hold no images"),
        ([torch.zeros(3, 8, 8)], r"a batch is \(3, 8, 8\); expected images"),
        ([{"image": 1}], "a batch is dict"),
        ([(torch.zeros(2, 3, 8, 8), torch.zeros(3))], r"labels of shape \(3,\) for 2 images"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 9, 9)], "several sizes"),
    ],
)
def test_batches_that_hold_no_images_are_refused(model: nn.Module, batches, reason: str) -> None:
    with pytest.raises(ProbeError, match=reason):
        attribute(model, batches, "saliency")
