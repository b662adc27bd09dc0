"""Attribution methods agree with closed forms and with Captum called directly, on residual networks too."""

import pytest
import torch
import torchvision
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerConductance as CaptumLayerConductance
from captum.attr import LayerGradCam
from captum.attr import Occlusion as CaptumOcclusion
from torch import nn
from torch.nn import functional as F

from lwexplain.errors import ProbeError
from lwexplain.models.build import MODELS
from lwexplain.probes.attribution.base import NotApplicable, network_of_model, network_of_stage, rise_of
from lwexplain.probes.attribution.deeplift import Separated
from lwexplain.probes.attribution.integrated import IntegratedGradients
from lwexplain.probes.attribution.layer import LayerConductance
from lwexplain.probes.attribution.memory import Chunker
from lwexplain.probes.attribution.methods import METHODS, method_of, methods_of
from lwexplain.probes.attribution.quality import residuals


def random_images(n=3, channels=3, side=12, seed=1):
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def explain(method, network, images, targets, size=64):
    return method_of(method).explain(network, images, targets, Chunker(size))


def residuals_of(method, network, images, targets):
    found = explain(method, network, images, targets)
    return residuals(found.totals, rise_of(network, images, targets, Chunker()))


def trained_norms(model, seed=0):
    """Random statistics for batch norms, as training would leave them."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def residual_network():
    torch.manual_seed(0)
    model = MODELS.create("resnet18", (3, 16, 16), 4, width=6)
    model.set_head(model.depth, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4)))
    return trained_norms(model)


@pytest.fixture(scope="module")
def torchvision_network():
    """The layout of torchvision's ResNet-18, with one block a group and narrow; its blocks reuse an in-place ReLU."""
    torch.manual_seed(0)
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
    return trained_norms(model)


def test_on_a_linear_model_all_path_methods_are_weight_times_pixel():
    weight = torch.randn(4, 3 * 12 * 12, generator=torch.Generator().manual_seed(2))
    network = network_of_stage(nn.Flatten(), lambda raw: raw @ weight.T + 1)
    images, targets = random_images(), torch.tensor([0, 3, 1])
    products = (images * weight[targets].view(images.shape)).sum(1)
    for method in ("integrated_gradients", "deep_lift", "gradient_x_input"):
        torch.testing.assert_close(explain(method, network, images, targets).maps, products, rtol=1e-5, atol=1e-5)
    expected = weight[targets].view(images.shape).abs().amax(1)
    torch.testing.assert_close(explain("saliency", network, images, targets).maps, expected)
    assert explain("integrated_gradients", network, images, targets).steps.tolist() == [16, 16, 16]


def test_deep_lift_of_one_relu_is_the_rescale_rule():
    network = network_of_stage(lambda x: x, lambda raw: (raw - 0.5).relu().flatten(1))
    images = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    found = explain("deep_lift", network, images, torch.zeros(2, dtype=torch.int64))
    assert found.maps.flatten().tolist() == pytest.approx([1.5, 0.0])


@pytest.mark.parametrize("size", [4, 64])
def test_occlusion_and_conductance_equal_captums_on_the_whole_model(residual_network, size):
    network = network_of_model(residual_network, residual_network.body[3])
    images, targets = random_images(side=16), torch.tensor([1, 2, 0])
    found = explain("occlusion", network, images, targets, size)
    expected = CaptumOcclusion(residual_network).attribute(
        images, sliding_window_shapes=(3, 4, 4), strides=(3, 2, 2), target=targets
    )
    torch.testing.assert_close(found.maps, expected[:, 0], rtol=1e-3, atol=1e-5)

    found = explain(LayerConductance(32, 32), network, images, targets, size)
    captum = CaptumLayerConductance(residual_network, residual_network.body[3])
    layer = captum.attribute(images, target=targets, n_steps=32, method="riemann_trapezoid").sum(1, keepdim=True)
    torch.testing.assert_close(found.totals, layer.detach().double().sum((1, 2, 3)), rtol=1e-3, atol=1e-4)
    expected = F.interpolate(layer, (16, 16), mode="bilinear")[:, 0].detach()
    torch.testing.assert_close(found.maps, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [5, 64])
def test_integrated_gradients_of_a_residual_network_are_complete_to_one_per_cent(residual_network, size):
    network = network_of_model(residual_network)
    images = random_images(3, side=16)
    rises = residual_network(images) - residual_network(torch.zeros_like(images))
    targets = rises.abs().argmax(1)
    found = explain("integrated_gradients", network, images, targets, size)
    assert residuals(found.totals, rise_of(network, images, targets, Chunker())).max() <= 0.01
    assert (found.steps >= 16).all()
    torch.testing.assert_close(found.totals, found.maps.double().sum((1, 2)), rtol=1e-4, atol=1e-4)
    fine = CaptumIntegratedGradients(residual_network).attribute(
        images, target=targets, n_steps=300, internal_batch_size=100
    )
    apart = (found.maps - fine.sum(1)).flatten(1).norm(dim=1) / fine.sum(1).flatten(1).norm(dim=1)
    assert apart.max() < 0.1


def test_only_images_that_need_more_steps_get_them():
    network = network_of_stage(lambda x: x, lambda raw: torch.stack([(raw.flatten(1) - 0.9).relu().sum(1)] * 2, 1))
    images = torch.stack([torch.full((1, 2, 2), -1.0), torch.full((1, 2, 2), 0.93)])
    found = explain("integrated_gradients", network, images, torch.zeros(2, dtype=torch.int64))
    assert found.steps[0] == 16
    assert 16 < found.steps[1] <= 60
    assert residuals_of("integrated_gradients", network, images, torch.zeros(2, dtype=torch.int64)).max() <= 0.01


def test_a_path_complete_at_once_costs_f_of_its_image_beside_the_gradients():
    rows = {True: 0, False: 0}  # by whether gradients are recorded

    def count(x):
        rows[torch.is_grad_enabled()] += len(x)
        return x

    network = network_of_stage(count, lambda raw: torch.stack([(raw.flatten(1) - 0.9).relu().sum(1)] * 2, 1))
    at_once = torch.full((3, 1, 2, 2), -1.0)
    found = explain("integrated_gradients", network, at_once, torch.zeros(3, dtype=torch.int64))
    assert found.steps.tolist() == [16] * 3
    assert rows == {True: 3 * 16, False: 3 + 1}  # f(0) is the same for all

    rows.update({True: 0, False: 0})
    images = torch.cat([at_once, torch.full((1, 1, 2, 2), 0.93)])
    found = explain("integrated_gradients", network, images, torch.zeros(4, dtype=torch.int64))
    assert rows[True] == found.steps.sum()
    assert 4 + 1 + 15 <= rows[False] < 3 + 1 + found.steps[3]  # ends on one path, but for those of its last cuts


def test_quick_integrated_gradients_evaluate_zero_alone():
    seen = []
    network = network_of_stage(lambda x: x, lambda raw: raw.tanh().flatten(1))

    def counted(x):
        if not torch.is_grad_enabled():
            seen.append(len(x))
        return network(x)

    quick = IntegratedGradients().quick()
    explain(quick, network_of_stage(counted, lambda raw: raw), random_images(2, 1, 2), torch.tensor([0, 1]))
    assert seen == [1]


@pytest.mark.parametrize("channels", [1, 3])
def test_integrated_gradients_keep_the_memory_format_of_the_images(channels):
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 8, 3).to(memory_format=torch.channels_last)
    formats = []

    def to_stage(x):
        raw = conv(x)
        formats.extend(y.is_contiguous(memory_format=torch.channels_last) for y in (x, raw))
        return raw

    network = network_of_stage(to_stage, lambda raw: (raw.tanh() ** 2).mean((2, 3)))
    images = random_images(3, channels).contiguous(memory_format=torch.channels_last)
    found = explain("integrated_gradients", network, images, torch.tensor([0, 1, 2]), size=5)
    assert len(formats) > 2 * 3 * 16 // 5
    assert all(formats)
    plain = network_of_stage(conv, lambda raw: (raw.tanh() ** 2).mean((2, 3)))
    expected = explain("integrated_gradients", plain, images.contiguous(), torch.tensor([0, 1, 2]), size=5)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-6)


def test_a_jump_cannot_be_integrated_and_ends_at_the_most_steps():
    network = network_of_stage(lambda x: x, lambda raw: (raw + 50 * (raw > 0.5)).flatten(1))
    images = torch.ones(1, 1, 1, 2)
    found = explain(IntegratedGradients(32, 64), network, images, torch.zeros(1, dtype=torch.int64))
    assert 64 <= found.steps[0] < 80
    assert residuals(found.totals, torch.tensor([51.0]).double())[0] > 0.9


@pytest.mark.parametrize("network_name", ["residual_network", "torchvision_network"])
def test_deep_lift_is_complete_on_residual_networks(request, network_name):
    model = request.getfixturevalue(network_name)
    network = network_of_model(model)
    images = random_images(3, side=32 if network_name == "torchvision_network" else 16)
    targets = model(images).argmax(1)
    separated = Separated(network, images[:1])
    torch.testing.assert_close(separated(images), model(images), rtol=1e-6, atol=1e-6)
    assert residuals_of("deep_lift", network, images, targets).max() < 1e-3


def test_deep_lift_without_a_rule_has_a_residual():
    network = network_of_stage(lambda x: x, lambda raw: F.gelu(3 * raw).flatten(1))
    images = torch.full((1, 1, 1, 2), -0.2)
    assert residuals_of("deep_lift", network, images, torch.zeros(1, dtype=torch.int64))[0] > 0.1


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(inplace=True),
        nn.ELU(1.3, inplace=True),
        nn.LeakyReLU(0.2),
        nn.Softplus(2.0),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.MaxPool2d(2, ceil_mode=True),
        lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
        lambda x: F.max_pool2d(x, (3, 2), (2, 1), ceil_mode=True),
        lambda x: F.max_pool2d(x.relu().tanh(), 2),
        lambda x: torch.tanh(x),
        lambda x: x.clone().relu_(),
    ],
)
def test_deep_lift_knows_modules_functions_and_methods_used_twice(activation):
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def head(raw):
        return last(activation(activation(first(raw)) * 2 - 0.1).mean((2, 3)))

    network = network_of_stage(lambda x: x, head)
    images, targets = random_images(), torch.tensor([0, 2, 1])
    assert residuals_of("deep_lift", network, images, targets).max() < 1e-3


def test_deep_lift_equals_captums_where_captums_is_right():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.Tanh(), nn.Flatten(),
        nn.Linear(20, 3),
    )  # fmt: skip
    images, targets = random_images(), torch.tensor([0, 2, 1])
    expected = CaptumDeepLift(model).attribute(images, target=targets).detach().sum(1)
    torch.testing.assert_close(explain("deep_lift", network_of_model(model), images, targets).maps, expected)


def test_deep_lift_refuses_a_network_that_relies_on_writing_in_place():
    def in_place(x):
        torch.relu_(x)
        return x

    network = network_of_stage(lambda x: 2 * x, lambda raw: in_place(raw).flatten(1))
    with pytest.raises(NotApplicable, match="the logits differ by"):
        explain("deep_lift", network, random_images(), torch.zeros(3, dtype=torch.int64))


def test_a_layer_deep_in_any_module_can_be_named(torchvision_network):
    network = network_of_model(torchvision_network, torchvision_network.layer2)
    images, targets = random_images(2, side=32), torch.tensor([0, 1])
    expected = LayerGradCam(torchvision_network, torchvision_network.layer2).attribute(images, target=targets)
    expected = F.interpolate(expected, (32, 32), mode="bilinear")[:, 0].detach()
    torch.testing.assert_close(explain("grad_cam", network, images, targets).maps, expected, rtol=1e-4, atol=1e-6)


def test_a_layer_used_twice_or_never_has_no_map():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.unused = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.layer(self.layer(x)).mean((2, 3))

    model = Twice()
    for layer, reason in ((model.layer, "used several times"), (model.unused, "this one is not")):
        for method in ("grad_cam", "layer_conductance"):
            with pytest.raises(NotApplicable, match=reason):
                explain(method, network_of_model(model, layer), random_images(), torch.zeros(3, dtype=torch.int64))
        assert not layer._forward_hooks


def test_unknown_methods_are_named_with_the_nearest():
    with pytest.raises(ProbeError, match="unknown attribution method 'gradcam'; did you mean 'grad_cam'"):
        methods_of(["gradcam"])
    with pytest.raises(ProbeError, match="expected a list"):
        methods_of("saliency")
    with pytest.raises(ProbeError, match="stands twice"):
        methods_of(["saliency", "saliency"])
    assert [method.name for method in methods_of(METHODS)] == list(METHODS)
