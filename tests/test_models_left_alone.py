"""No public function that takes a module leaves a trace on it, also where something raises on the way."""

import contextlib

import pytest
import torch
from module_state import random_states, state_of
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.models import VisionTransformer

import lwexplain as lw
from lwexplain.capture.extract import extract
from lwexplain.capture.hooks import output_of
from lwexplain.exporting.shorter_network import portable
from lwexplain.models.wrap import stage_by_names
from lwexplain.probes.cost import CostProbe
from lwexplain.probes.receptive_field import ReceptiveFieldProbe

SHAPE = (3, 8, 8)


class Network(nn.Module):
    """A stem, a middle that is different in every network, and a linear layer."""

    def __init__(self, middle):
        super().__init__()
        self.stem, self.middle = nn.Conv2d(3, 4, 3), middle
        self.pool, self.fc = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.pool(self.middle(self.stem(x))))


class Rows(nn.Module):
    """An LSTM along the rows of a map."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        n, c, h, w = x.shape
        rows = self.lstm(x.permute(0, 2, 3, 1).reshape(n * h, w, c))[0]
        return rows.reshape(n, h, w, c).permute(0, 3, 1, 2)


class Remembering(nn.Module):
    """Keeps a tensor of the forward pass, and counts in a complex buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("phases", torch.ones(3, dtype=torch.complex64))

    def forward(self, x):
        self.seen = x
        self.phases += 1
        return x


class Hooked(nn.Sequential):
    """With hooks of its owner, of every kind."""

    def __init__(self):
        super().__init__(nn.Conv2d(4, 4, 3), nn.ReLU())
        self[0].register_forward_hook(lambda *_: None)
        self[0].register_forward_pre_hook(lambda *_: None)
        self[1].register_full_backward_hook(lambda *_: None)
        self.register_forward_hook(lambda *_: None, always_call=True)


def tied():
    first, second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


def partly_frozen():
    middle = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    middle[0].requires_grad_(False)
    middle[2].bias.requires_grad_(False)
    return middle


def mixed_modes():
    middle = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5), nn.BatchNorm2d(4))
    middle[0].eval()
    return middle


def with_gradients():
    model = Network(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Dropout(0.5)))
    model(torch.rand(2, *SHAPE)).sum().backward()
    return model


STEM = ("stem", "middle")
NETWORKS = {
    "batch norm and dropout": (lambda: Network(nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5))), STEM),
    "instance norm": (lambda: Network(nn.InstanceNorm2d(4, track_running_stats=True)), STEM),
    "spectral norm": (lambda: Network(spectral_norm(nn.Conv2d(4, 4, 3))), STEM),
    "tied weights": (lambda: Network(tied()), STEM),
    "lstm": (lambda: Network(Rows()), STEM),
    "hooks of its owner": (lambda: Network(Hooked()), STEM),
    "parts in either mode": (lambda: Network(mixed_modes()), STEM),
    "partly frozen": (lambda: Network(partly_frozen()), STEM),
    "gradients": (with_gradients, STEM),
    "a tensor kept": (lambda: Network(Remembering()), STEM),
    "compiled": (lambda: torch.compile(Network(nn.BatchNorm2d(4)), backend="eager"), STEM),
    "data parallel": (lambda: nn.DataParallel(Network(nn.BatchNorm2d(4))), ("module.stem", "module.middle")),
    "transformer": (
        lambda: VisionTransformer(8, 4, 2, 2, 8, 16, dropout=0.1, num_classes=3),
        ("conv_proj", "encoder.layers.encoder_layer_1"),
    ),
}


def loaders():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(12) % 3
    x = torch.randn(12, *SHAPE, generator=generator) + y[:, None, None, None]
    return {"train": [(x, y)], "val": [(x, y)]}


class Raising:
    name = "raising"

    def measure(self, stage):
        raise ArithmeticError("in a probe")


def staged(model, stages):
    return stage_by_names(getattr(model, "_orig_mod", model), stages, SHAPE, 3)


def image_gradients(model, stage):
    images = loaders()["val"][0][0].requires_grad_()
    torch.autograd.grad(output_of(model, stage, images).sum(), images)


CALLS = {
    "analyze_model": lambda m, s: lw.analyze_model(m, loaders(), list(s), ["ncm"], quiet=True),
    "analyze_model with a probe that raises": lambda m, s: lw.analyze_model(
        m, loaders(), list(s), [Raising()], quiet=True
    ),
    "attribute": lambda m, s: lw.attribute(m, loaders()["val"], "gradient_x_input"),
    "attribute through a layer": lambda m, s: lw.attribute(m, loaders()["val"], "grad_cam", layer=s[0]),
    "extract": lambda m, s: extract(m, loaders()["val"], list(s), own_output=True),
    "output_of": lambda m, s: image_gradients(m, s[0]),
    "receptive fields": lambda m, s: ReceptiveFieldProbe(m, s, SHAPE).measure_all([]),
    "shapes and cut": lambda m, s: staged(m, s).truncated(2).feature_shapes(),
    "costs": lambda m, s: CostProbe(staged(m, s), list(s)).measure_all([]),
    "copy for a file": lambda m, s: portable(staged(m, s)),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_left_as_it_was(network, call):
    """Every other network is in evaluation mode, which is where a wrong mode does the most harm."""
    make, stages = NETWORKS[network]
    model = make()
    if network != "parts in either mode" and list(NETWORKS).index(network) % 2 == 0:
        model.eval()
    before, states = state_of(model), random_states()
    with contextlib.suppress(lw.errors.LwexplainError):  # what cannot be done must leave no trace, either
        CALLS[call](model, stages)
    assert state_of(model) == before
    assert random_states() == states


@pytest.mark.parametrize("call", CALLS)
def test_a_network_that_raises_in_its_forward_is_left_as_it_was(call):
    class Failing(Network):
        def forward(self, x):
            torch.rand(1)
            self.stem.register_forward_hook(lambda *_: None)
            super().forward(x)
            raise ArithmeticError("in the forward")

    model = Failing(nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5)))
    before, states = state_of(model), random_states()
    with contextlib.suppress(lw.errors.LwexplainError, ArithmeticError):
        CALLS[call](model, STEM)
    assert state_of(model) == before
    assert random_states() == states
