"""Attributions agree with Captum on the whole model, know when they mean nothing, and change nothing."""

import re

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from torch import nn

from lwexplain.errors import ProbeError
from lwexplain.probes.attribution import AttributionMaps, completeness_residual
from lwexplain.probes.base import Attribution, Measurement


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU())
        self.head = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 12, 10, generator=torch.Generator().manual_seed(3))


def explain(make_stage, chunk: int = 16, **fields) -> tuple[dict[str, Attribution], list[Measurement]]:
    stage = make_stage(dims=4, **fields)
    results = AttributionMaps(chunk=chunk).measure(stage)
    maps = {item.method: item for item in results if isinstance(item, Attribution)}
    return maps, [item for item in results if isinstance(item, Measurement)]


@pytest.mark.parametrize("chunk", [2, 16])
def test_maps_equal_captums_on_the_whole_model(make_stage, net: Net, images: torch.Tensor, chunk: int) -> None:
    maps, rows = explain(make_stage, chunk, images=images, model_to_stage=net.body, head=net.head)
    targets = net(images).argmax(1)
    for item in maps.values():
        assert item.valid, item.note
        assert item.maps.shape == (5, 12, 10)
        assert item.maps.dtype == np.float32
        assert item.targets.tolist() == targets.tolist()
    net.head[0].inplace = False
    x = images.clone().requires_grad_()
    expected = {
        "saliency": Saliency(net).attribute(x, target=targets).amax(1),
        "integrated_gradients": IntegratedGradients(net).attribute(images, target=targets, n_steps=32).sum(1),
    }
    cam = LayerGradCam(net, net.body).attribute(images, target=targets)
    expected["grad_cam"] = nn.functional.interpolate(cam, (12, 10), mode="bilinear")[:, 0]
    assert list(maps) == list(expected)
    for method, value in expected.items():
        np.testing.assert_allclose(maps[method].maps, value.detach().numpy(), atol=1e-5)
    assert [(row.metric, row.split, row.n) for row in rows] == [("ig_completeness_residual", "val", 5)]
    assert rows[0].value < 0.1


def test_nothing_changes(make_stage, net: Net, images: torch.Tensor) -> None:
    net.body[0].weight.requires_grad_(False)
    before = [(p.requires_grad, p.detach().clone()) for p in net.parameters()]
    kept = images.clone()
    explain(make_stage, images=images, model_to_stage=net.body, head=net.head)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    for parameter, (required, value) in zip(net.parameters(), before, strict=True):
        assert parameter.requires_grad == required
        assert parameter.grad is None
        assert torch.equal(parameter, value)
    assert all(not m._forward_hooks and not m._backward_hooks for m in net.modules())


def test_frozen_models_can_be_explained(make_stage, net: Net, images: torch.Tensor) -> None:
    net.requires_grad_(False)
    with torch.no_grad():
        maps, _ = explain(make_stage, images=images, model_to_stage=net.body, head=net.head)
    assert all(item.valid for item in maps.values())


def test_without_a_head_the_linear_probe_is_explained(make_stage, net: Net, images: torch.Tensor) -> None:
    maps, _ = explain(make_stage, images=images, model_to_stage=net.body, pool=lambda raw: raw.mean((2, 3)))
    for item in maps.values():
        assert item.valid
        assert item.note == "through the linear probe"


def test_without_images_there_is_nothing(make_stage) -> None:
    assert AttributionMaps().measure(make_stage()) == []


def test_what_is_missing_is_named(make_stage, images: torch.Tensor) -> None:
    with pytest.raises(ProbeError, match="no function from images"):
        AttributionMaps().measure(make_stage(images=images))
    with pytest.raises(ProbeError, match="neither a head nor a pooling"):
        AttributionMaps().measure(make_stage(images=images, model_to_stage=nn.Identity()))


@pytest.mark.parametrize(("tokens", "class_token"), [(9, 0), (10, 1)])
def test_grad_cam_lays_tokens_on_their_grid(make_stage, images: torch.Tensor, tokens: int, class_token: int) -> None:
    torch.manual_seed(0)
    patch = nn.Conv2d(3, 4, 4, stride=3)
    x = images[:, :, :10, :10]
    linear = nn.Linear(4, 3)

    def to_stage(x: torch.Tensor) -> torch.Tensor:
        grid = patch(x).flatten(2).transpose(1, 2)
        return torch.cat([grid.mean(1, keepdim=True)] * class_token + [grid], dim=1)

    def head(raw: torch.Tensor) -> torch.Tensor:
        return linear(raw[:, class_token:].relu().mean(1))

    assert to_stage(x).shape[1] == tokens
    maps, _ = explain(make_stage, images=x, model_to_stage=to_stage, head=head)
    assert maps["grad_cam"].valid, maps["grad_cam"].note
    model = nn.Sequential(patch, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    targets = torch.from_numpy(maps["grad_cam"].targets)
    expected = nn.functional.interpolate(
        LayerGradCam(model, patch).attribute(x, target=targets), (10, 10), mode="bilinear"
    )[:, 0]
    np.testing.assert_allclose(maps["grad_cam"].maps, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("to_stage", "reason"),
    [
        (lambda x: x.mean((2, 3)), r"needs a spatial output; this stage gives \(5, 3\)"),
        (lambda x: x.mean((2, 3), keepdim=True), r"needs a spatial output; this stage gives \(5, 3, 1, 1\)"),
        (lambda x: x.flatten(2).transpose(1, 2)[:, :7], "square grid of tokens"),
    ],
)
def test_grad_cam_without_a_grid_is_invalid_with_the_reason(make_stage, images, to_stage, reason: str) -> None:
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    head(to_stage(images))
    maps, _ = explain(make_stage, images=images, model_to_stage=to_stage, head=head)
    assert not maps["grad_cam"].valid
    assert not maps["grad_cam"].maps.any()
    assert maps["saliency"].valid
    assert re.search(reason, maps["grad_cam"].note)


def test_maps_that_say_nothing_are_invalid(make_stage, images: torch.Tensor) -> None:
    def flat(x: torch.Tensor) -> torch.Tensor:
        return x.sign() + 0 * x

    maps, rows = explain(make_stage, images=images, model_to_stage=flat, head=lambda raw: raw.mean((2, 3)))
    for method in ("saliency", "integrated_gradients"):
        assert not maps[method].valid
        assert "zero everywhere for 5 of 5" in maps[method].note
    assert rows == []

    def broken(x: torch.Tensor) -> torch.Tensor:
        return (x - x).sqrt() + x

    maps, _ = explain(make_stage, images=images, model_to_stage=broken, head=lambda raw: raw.mean((2, 3)))
    assert "NaN" in maps["saliency"].note
    assert np.isfinite(maps["saliency"].maps).all()


def test_incomplete_integrated_gradients_are_invalid(make_stage, images: torch.Tensor) -> None:
    def steps(x: torch.Tensor) -> torch.Tensor:
        return x + 50 * (x > 0.5).float()

    maps, rows = explain(make_stage, images=images, model_to_stage=steps, head=lambda raw: raw.mean((2, 3)))
    assert rows[0].value > 0.1
    assert not maps["integrated_gradients"].valid
    assert "completeness residual" in maps["integrated_gradients"].note
    assert maps["saliency"].valid


def test_a_method_that_raises_does_not_take_the_others_along(make_stage, images: torch.Tensor) -> None:
    def head(raw: torch.Tensor) -> torch.Tensor:
        if len(raw) > 5:  # only integrated gradients makes larger batches
            raise RuntimeError("out of\nmemory")
        return raw.mean((2, 3))

    maps, _ = explain(make_stage, images=images, model_to_stage=nn.Identity(), head=head)
    assert maps["integrated_gradients"].note == "failed: RuntimeError: out of memory"
    assert maps["saliency"].valid
    assert maps["grad_cam"].valid


def test_completeness_of_a_linear_function_is_exact(images: torch.Tensor) -> None:
    weight = torch.randn(3, 360)
    targets = torch.zeros(5, dtype=torch.int64)
    maps = (images * weight[0].view(3, 12, 10)).sum(1)
    assert completeness_residual(lambda x: x.flatten(1) @ weight.T, images, targets, maps) < 1e-4
    assert completeness_residual(lambda x: x.flatten(1) @ weight.T, images, targets, 0 * maps) == pytest.approx(1.0)
