"""Attributions agree with Captum on the whole model, know when they mean nothing, and change nothing."""

import re

import numpy as np
import pytest
import torch
from captum.attr import DeepLift, InputXGradient, IntegratedGradients, LayerGradCam, Saliency
from planted_evidence import EdgeDetector, Mix
from scipy.ndimage import binary_dilation
from torch import nn

from lwexplain.errors import ProbeError
from lwexplain.probes.attribution import CHECKS, DEFAULT_METHODS, METHODS, AttributionMaps, Explanation, Method
from lwexplain.probes.attribution.gradients import Saliency as SaliencyMethod
from lwexplain.probes.base import PROBES, Attribution, Measurement
from lwexplain.probes.returned import check_results


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU())
        self.head = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def images():
    return torch.randn(5, 3, 12, 10, generator=torch.Generator().manual_seed(3))


def explain(make_stage, methods=DEFAULT_METHODS, checks=("completeness",), chunk=None, **fields):
    stage = make_stage(dims=4, **fields)
    results = check_results(stage, AttributionMaps(methods, checks, chunk).measure(stage))
    maps = {item.method: item for item in results if isinstance(item, Attribution)}
    return maps, {item.metric: item for item in results if isinstance(item, Measurement)}


@pytest.mark.parametrize("chunk", [2, None])
def test_maps_equal_captums_on_the_whole_model(make_stage, net, images, chunk):
    maps, _ = explain(make_stage, chunk=chunk, checks=[], images=images, model_to_stage=net.body, head=net.head)
    targets = net(images).argmax(1)
    for item in maps.values():
        assert item.valid, item.note
        assert item.maps.shape == (5, 12, 10)
        assert item.maps.dtype == np.float32
        assert item.targets.tolist() == targets.tolist()
    net.head[0].inplace = False
    x = images.clone().requires_grad_()
    cam = LayerGradCam(net, net.body).attribute(images, target=targets)
    net.head[0] = nn.Identity()  # the body ends in the same ReLU, and Captum is wrong for two in a row
    expected = {
        "saliency": Saliency(net).attribute(x, target=targets).amax(1),
        "gradient_x_input": InputXGradient(net).attribute(x, target=targets).sum(1),
        "integrated_gradients": IntegratedGradients(net).attribute(images, target=targets, n_steps=400).sum(1),
        "grad_cam": nn.functional.interpolate(cam, (12, 10), mode="bilinear")[:, 0],
        "deep_lift": DeepLift(net).attribute(images, target=targets).sum(1),
    }
    assert list(maps) == list(expected) == list(DEFAULT_METHODS)
    for method, value in expected.items():
        near = 2e-3 if method == "integrated_gradients" else 1e-5
        np.testing.assert_allclose(maps[method].maps, value.detach().numpy(), atol=near)


def test_each_method_comes_with_its_quality(make_stage, planted):
    fields = {"images": planted.images, "model_to_stage": planted.body, "head": planted.head}
    maps, rows = explain(make_stage, METHODS, CHECKS, **fields)
    complete = ("integrated_gradients", "deep_lift", "layer_conductance")
    for method in METHODS:
        assert maps[method].valid, maps[method].note
        found = {name.removeprefix(f"{method}_"): row for name, row in rows.items() if name.startswith(f"{method}_")}
        always = {"insertion_gain", "deletion_gain", "max_sensitivity", "randomisation_correlation"}
        always |= {"randomisation_strength_correlation", "edge_correlation", "edge_correlation_randomised"}
        residuals = {"completeness_residual", "completeness_residual_max", "incomplete_share"}
        residuals = residuals if method in complete else set()
        assert set(found) == always | residuals
        for row in found.values():
            assert (row.split, row.n) == ("val", 12)
        for what in always:
            assert found[what].low <= found[what].value <= found[what].high
        if residuals:
            assert 0 <= found["completeness_residual"].value <= found["completeness_residual_max"].value
    assert rows["integrated_gradients_completeness_residual_max"].value <= 0.01
    assert rows["deep_lift_completeness_residual"].value < 1e-4
    assert rows["integrated_gradients_incomplete_share"].value == 0
    assert not any(maps["integrated_gradients"].image_notes)
    assert "steps; baseline: zero input; these images run from" in maps["integrated_gradients"].note
    assert rows["grad_cam_insertion_gain"].note == "against 4 random orders, 10 steps, on zero input"


def test_the_baseline_is_named_for_what_it_is(make_stage, net, images):
    def baseline(images, **fields):
        fields |= {"images": images, "model_to_stage": net.body, "head": net.head}
        return explain(make_stage, ["occlusion"], **fields)[0]["occlusion"].note

    pixels = torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    assert "mean colour of train" in baseline(images, zero_image="the mean colour of train")
    assert "run from 0 to 1, and zero is the lowest value (black)" in baseline(pixels * (pixels > 0.2) / pixels.max())
    assert "zero is about their mean" in baseline((pixels - pixels.mean((0, 2, 3), keepdim=True)) / pixels.std())
    assert "zero is neither their lowest value nor their mean" in baseline(pixels - 0.3)
    assert "zero is neither" in baseline(pixels + 5)


def test_checks_can_be_chosen(make_stage, net, images):
    fields = {"images": images, "model_to_stage": net.body, "head": net.head}
    _, rows = explain(make_stage, ["saliency"], ["sensitivity"], **fields)
    assert list(rows) == ["saliency_max_sensitivity"]
    assert explain(make_stage, ["saliency"], [], **fields)[1] == {}


def test_options_that_make_no_sense_are_refused_by_name():
    for options, reason in (
        ({"methods": ["gradcam"]}, "did you mean 'grad_cam'"),
        ({"methods": []}, "expected a list with at least one"),
        ({"methods": "saliency"}, "expected a list"),
        ({"checks": ["completness"]}, "unknown check 'completness'; did you mean 'completeness'"),
        ({"checks": "completeness"}, "expected a list"),
        ({"chunk": 0}, "chunk is 0"),
        ({"chunk": True}, "chunk is True"),
    ):
        with pytest.raises(ProbeError, match=reason):
            AttributionMaps(**options)
    assert PROBES.create("attribution", options={"methods": ["occlusion"]}).methods[0].name == "occlusion"


def test_an_edge_detector_is_refused_and_true_maps_pass(make_stage, planted):
    fields = {"images": planted.images, "model_to_stage": planted.body, "head": planted.head}
    maps, rows = explain(make_stage, [EdgeDetector(), *METHODS], CHECKS, **fields)
    assert rows["edges_randomisation_correlation"].value == pytest.approx(1)
    assert rows["edges_edge_correlation"].value == pytest.approx(1)
    assert not maps["edges"].valid
    assert "shows the image more than the network: rank correlation 1.00" in maps["edges"].note
    assert "edge detector 1.00 before and 1.00 after shuffling" in maps["edges"].note
    near = binary_dilation(planted.evidence, np.ones((1, 5, 5)))  # seen from next to it, gradients reach one further
    for method in METHODS:
        assert maps[method].valid, maps[method].note
        strength = np.abs(maps[method].maps)
        if method != "occlusion":  # whose windows are as large as the evidence
            assert (strength * near).sum() > 0.95 * strength.sum()


@pytest.mark.parametrize(
    ("share", "scale", "valid"),
    [
        (0.7, "deviation", False),
        (0.7, "maximum", False),
        (0.7, "sum", False),
        (0.5, "deviation", False),
        (0.5, "maximum", False),
        (0.1, "deviation", True),
        (0.1, "maximum", True),
        (0.3, "sum", True),
    ],
)
def test_a_mix_of_edges_and_a_true_map_is_refused_where_edges_are_much_of_it(make_stage, planted, share, scale, valid):
    scales = {
        "deviation": lambda maps: maps.flatten(1).std(1),
        "maximum": lambda maps: maps.abs().flatten(1).amax(1),
        "sum": lambda maps: maps.abs().flatten(1).sum(1),
    }
    fields = {"images": planted.images, "model_to_stage": planted.body, "head": planted.head}
    checks = ["insertion_deletion", "randomisation"]
    maps, _ = explain(make_stage, [Mix(share, scales[scale])], checks, **fields)
    assert maps["mix"].valid == valid, maps["mix"].note


def test_edges_with_the_signs_of_the_network_are_edges_still(make_stage, planted):
    class SignedEdges(EdgeDetector):
        name = "signed_edges"

        def compute(self, network, x, target, chunker):
            edges = super().compute(network, x, target, chunker).maps
            signs = torch.randn(edges.shape, generator=torch.Generator().manual_seed(int(network(x).abs().sum() * 1e6)))
            return Explanation(edges * signs.sign())

    fields = {"images": planted.images, "model_to_stage": planted.body, "head": planted.head}
    maps, rows = explain(make_stage, [SignedEdges()], ["randomisation"], **fields)
    assert abs(rows["signed_edges_randomisation_correlation"].value) < 0.1
    assert rows["signed_edges_randomisation_strength_correlation"].value == pytest.approx(1)
    assert not maps["signed_edges"].valid
    assert "rank correlation of strengths 1.00" in maps["signed_edges"].note


def test_maps_no_better_than_chance_are_invalid_with_the_figures(make_stage, planted):
    class Noise(Method):
        name = "noise"

        def compute(self, network, x, target, chunker):
            seed = int(network(x).abs().sum() * 1e6)
            return Explanation(torch.randn(len(x), *x.shape[2:], generator=torch.Generator().manual_seed(seed)))

    class Wrong(SaliencyMethod):
        name = "wrong"

        def compute(self, network, x, target, chunker):
            return Explanation(-super().compute(network, x, target, chunker).maps)

    fields = {"images": planted.images, "model_to_stage": planted.body, "head": planted.head}
    maps, rows = explain(make_stage, [Noise(), Wrong()], CHECKS, **fields)
    for method in ("noise", "wrong"):
        assert not maps[method].valid
        assert re.search(r"no better than chance: insertion gain \S+ \(\S+ to \S+\) and deletion", maps[method].note)
    assert rows["wrong_insertion_gain"].high < 0
    assert all("no better than chance: insertion gain -" in note for note in maps["wrong"].image_notes)
    alone, _ = explain(make_stage, ["saliency"], CHECKS, **{**fields, "images": planted.images[:1]})
    assert "one image alone does not tell a map from chance" in alone["saliency"].note


def test_without_weights_there_is_no_randomisation(make_stage, images):
    stage = {"images": images, "model_to_stage": nn.Identity(), "head": lambda raw: raw.relu().mean((2, 3))}
    maps, rows = explain(make_stage, ["gradient_x_input", EdgeDetector()], CHECKS, **stage)
    assert "gradient_x_input_randomisation_correlation" not in rows
    assert maps["gradient_x_input"].valid, maps["gradient_x_input"].note
    assert "no weights to shuffle" in maps["gradient_x_input"].note
    assert not maps["edges"].valid
    assert "looks like an edge detector of the image (rank correlation 1.00), and" in maps["edges"].note


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_changes(make_stage, net, images, broken):
    net.body[0].weight.requires_grad_(False)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()]
    attributes = [set(vars(module)) for module in net.modules()]
    before = [(p.requires_grad, p.detach().clone()) for p in net.parameters()]
    images = images[:2]
    kept, random = images.clone(), torch.get_rng_state()
    to_stage = net.body if not broken else lambda x: net.body(x) if not x.requires_grad else 1 / 0
    maps, _ = explain(make_stage, METHODS, CHECKS, images=images, model_to_stage=to_stage, head=net.head)
    without_gradients_at_the_image = {"grad_cam", "occlusion"}
    assert {name for name in METHODS if "ZeroDivisionError" not in maps[name].note} == (
        without_gradients_at_the_image if broken else set(METHODS)
    )
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    for parameter, (required, value) in zip(net.parameters(), before, strict=True):
        assert parameter.requires_grad == required
        assert parameter.grad is None
        assert torch.equal(parameter, value)
    assert [set(vars(module)) for module in net.modules()] == attributes
    after = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in net.modules()]
    assert after == hooks


def test_frozen_models_can_be_explained(make_stage, net, images):
    net.requires_grad_(False)
    with torch.no_grad():
        maps, _ = explain(make_stage, images=images, model_to_stage=net.body, head=net.head)
    assert all(item.valid for item in maps.values())


def test_without_a_head_the_linear_probe_is_explained(make_stage, net, images):
    maps, _ = explain(make_stage, images=images, model_to_stage=net.body, pool=lambda raw: raw.mean((2, 3)))
    for item in maps.values():
        assert item.valid
        assert item.note.startswith("through the linear probe")


def test_without_images_there_is_nothing(make_stage):
    assert AttributionMaps().measure(make_stage()) == []


def test_what_is_missing_is_named(make_stage, images):
    with pytest.raises(ProbeError, match="no function from images"):
        AttributionMaps().measure(make_stage(images=images))
    with pytest.raises(ProbeError, match="neither a head nor a pooling"):
        AttributionMaps().measure(make_stage(images=images, model_to_stage=nn.Identity()))


@pytest.mark.parametrize(("tokens", "class_token"), [(9, 0), (10, 1)])
def test_grad_cam_lays_tokens_on_their_grid(make_stage, images, tokens, class_token):
    torch.manual_seed(0)
    patch = nn.Conv2d(3, 4, 4, stride=3)
    x = images[:, :, :10, :10]
    linear = nn.Linear(4, 3)

    def to_stage(x):
        grid = patch(x).flatten(2).transpose(1, 2)
        return torch.cat([grid.mean(1, keepdim=True)] * class_token + [grid], dim=1)

    def head(raw):
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
        (
            lambda x: x.flatten(2).transpose(1, 2)[:, :7],
            "7 tokens do not lie on a grid over an image of 12 x 10",
        ),
    ],
)
def test_grad_cam_without_a_grid_is_invalid_with_the_reason(make_stage, images, to_stage, reason):
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    head(to_stage(images))
    maps, _ = explain(make_stage, images=images, model_to_stage=to_stage, head=head)
    assert not maps["grad_cam"].valid
    assert not maps["grad_cam"].maps.any()
    assert maps["saliency"].valid
    assert re.search(reason, maps["grad_cam"].note)


def test_maps_that_say_nothing_are_invalid(make_stage, images):
    def flat(x):
        return x.sign() + 0 * x

    maps, rows = explain(make_stage, images=images, model_to_stage=flat, head=lambda raw: raw.mean((2, 3)))
    for method in ("saliency", "gradient_x_input", "integrated_gradients", "deep_lift"):
        assert not maps[method].valid
        assert "zero everywhere for 5 of 5" in maps[method].note
    assert not [name for name in rows if not name.startswith("grad_cam")]

    def broken(x):
        return (x - x).sqrt() + x

    maps, _ = explain(make_stage, images=images, model_to_stage=broken, head=lambda raw: raw.mean((2, 3)))
    assert "NaN" in maps["saliency"].note
    assert np.isfinite(maps["saliency"].maps).all()


def test_incomplete_maps_are_invalid_with_the_residual(make_stage, images):
    def steps(x):
        return x + 50 * (x > 0.5).float()

    stage = {"images": images[:2], "model_to_stage": steps, "head": lambda raw: raw.mean((2, 3))}
    maps, rows = explain(make_stage, **stage)
    assert rows["integrated_gradients_completeness_residual"].value > 0.1
    assert rows["integrated_gradients_completeness_residual"].note == "2 of 2 images above 0.01"
    for method in ("integrated_gradients", "deep_lift"):
        assert not maps[method].valid
        assert re.match(r"completeness residual [\d.]+ of the logit difference \(worst image", maps[method].note)
    assert maps["saliency"].valid


def test_a_method_that_raises_does_not_take_the_others_along(make_stage, net, images):
    class Broken(Method):
        name = "broken"

        def compute(self, network, x, target, chunker):
            raise ValueError("no\nidea")

    methods = [Broken(), "saliency"]
    maps, rows = explain(make_stage, methods, images=images, model_to_stage=net.body, head=net.head)
    assert maps["broken"].note == "failed: ValueError: no idea"
    assert not maps["broken"].valid
    assert not maps["broken"].maps.any()
    assert maps["saliency"].valid
    assert not [name for name in rows if name.startswith("broken")]


def test_batches_shrink_to_the_memory_of_the_stage(make_stage, net, images):
    rows = []
    fields = {"images": images, "model_to_stage": lambda x: (rows.append(len(x)), net.body(x))[1], "head": net.head}
    explain(make_stage, checks=[], **fields)
    assert max(rows) > 30
    rows.clear()
    explain(make_stage, checks=[], memory_bytes=50_000, **fields)
    assert max(rows) <= 4


@pytest.mark.parametrize("tokens", [9, 10])
def test_conductance_lays_tokens_on_their_grid(make_stage, images, tokens):
    torch.manual_seed(0)
    patch, linear = nn.Conv2d(3, 4, 4, stride=3), nn.Linear(4, 3)

    def to_stage(x):
        grid = patch(x).flatten(2).transpose(1, 2)
        return torch.cat([grid.mean(1, keepdim=True), grid], dim=1)[:, 10 - tokens :]

    fields = {"images": images[:, :, :10, :10], "model_to_stage": to_stage}
    maps, rows = explain(
        make_stage, ["layer_conductance"], head=lambda raw: linear(raw[:, tokens - 9 :].relu().mean(1)), **fields
    )
    assert maps["layer_conductance"].valid, maps["layer_conductance"].note
    assert maps["layer_conductance"].maps.shape == (5, 10, 10)
    assert rows["layer_conductance_completeness_residual"].value < 0.1


def test_maps_made_of_gradients_say_what_keeps_gradients_from_the_images(make_stage, net, images):
    fields = {"images": images, "model_to_stage": torch.no_grad()(net.body), "head": net.head}
    maps, rows = explain(make_stage, ["saliency", "occlusion"], **fields)
    assert not maps["saliency"].valid
    assert "needs gradients, and the logits carry no gradient to the image, for its forward" in maps["saliency"].note
    assert "runs under torch.no_grad()" in maps["saliency"].note
    assert not maps["saliency"].maps.any()
    assert maps["occlusion"].valid
    assert not any(metric.startswith("saliency") for metric in rows)
