"""Receptive fields of random networks equal what the image reaches; offsets count."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lwexplain.models.receptive_field import receptive_fields

SIDE = 40


class Do(nn.Module):
    """A function of maps as a module, with the modules and numbers that it uses."""

    def __init__(self, function, *given, **numbers):
        super().__init__()
        self.function, self.inner, self.numbers = function, nn.ModuleList(given), numbers

    def forward(self, x):
        return self.function(x, *self.inner, **self.numbers)


def field_of(model, side=SIDE, channels=2):
    stages = nn.Sequential(model).double().eval()
    return receptive_fields(stages, {"0": (model, 1)}, torch.zeros(1, channels, side, side).double())["0"].after


def reached(model, axis, side=SIDE, channels=2):
    """Which rows (columns) of the image a NaN reaches each row (column) of the output from: bool (out, side)."""
    images = torch.zeros(side, channels, side, side).double()
    for place in range(side):
        images[place].select(axis + 1, place).fill_(math.nan)
    with torch.no_grad():
        output = model.double().eval()(images).isnan().any(1)
    other = output.shape[2 - axis] // 2
    return output.select(2 - axis, other).T


def extents(model, axis, **options):
    """Sizes of what single positions see: of all, and of those in the middle third that see no border."""
    everywhere, inside = [], []
    rows = reached(model, axis, **options)
    for place, row in enumerate(rows):
        seen = row.nonzero().flatten().tolist()
        if seen:
            size = seen[-1] - seen[0] + 1
            everywhere.append(size)
            middle = len(rows) // 3 <= place < len(rows) - len(rows) // 3
            if middle and seen[0] > 0 and seen[-1] < len(row) - 1:
                inside.append(size)
    return everywhere, inside


def conv(channels, out, size, **options):
    return nn.Conv2d(channels, out, size, **options)


def focus(x):
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def depth_from_space(x, r=2):
    n, c, h, w = x.shape
    return x.view(n, c, h // r, r, w // r, r).permute(0, 1, 3, 5, 2, 4).reshape(n, c * r * r, h // r, w // r)


def assembled(x):
    y = torch.zeros_like(x)
    y[:, :, 2:] = x[:, :, :-2]
    return y


LAYERS = {
    "conv": lambda draw: conv(2, 2, draw(1, 4), stride=draw(1, 2), padding=draw(0, 2), dilation=draw(1, 2)),
    "rectangle": lambda draw: conv(2, 2, (draw(1, 3), draw(1, 4)), padding=(draw(0, 1), draw(0, 2))),
    "depthwise": lambda draw: conv(2, 2, draw(2, 3), groups=2, padding=draw(0, 2)),
    "circular": lambda draw: conv(2, 2, 3, padding=1, padding_mode=("circular", "reflect", "replicate")[draw(0, 2)]),
    "average": lambda draw: nn.AvgPool2d(draw(2, 3), draw(1, 2)),
    "maximum": lambda draw: nn.MaxPool2d(draw(2, 3), draw(1, 2), padding=draw(0, 1)),
    "slice": lambda draw: Do(lambda x, a, b, c: x[:, :, a::b, c:], a=draw(0, 3), b=draw(1, 2), c=draw(0, 2)),
    "crop": lambda draw: Do(lambda x, a: x[:, :, a : x.shape[2] - 1, : x.shape[3] - a], a=draw(0, 2)),
    "roll": lambda draw: Do(lambda x, a, b: x.roll((a, b), (2, 3)), a=draw(-3, 3), b=draw(-1, 1)),
    "flip": lambda draw: Do(lambda x: x.flip(2)),
    "pad": lambda draw: Do(lambda x, a, b: F.pad(x, (a, b, b, a)), a=draw(-1, 2), b=draw(0, 2)),
    "wrap": lambda draw: Do(lambda x, a, b: F.pad(x, (a, b, b, a), mode="circular"), a=draw(0, 2), b=draw(0, 2)),
    "norm": lambda draw: nn.Sequential(nn.BatchNorm2d(2), nn.GELU()),
    "shortcut": lambda draw: Do(lambda x, f: x + f(x), conv(2, 2, 3, padding=1)),
    "shifted shortcut": lambda draw: Do(lambda x, a: x + x.roll(a, 2), a=draw(-3, 3)),
    "cropped shortcut": lambda draw: Do(
        lambda x, f, a, b: f(x) + x[:, :, a : x.shape[2] - 2 + a, b : x.shape[3] - 2 + b],
        conv(2, 2, 3), a=draw(0, 2), b=draw(0, 2),
    ),
    "branches": lambda draw: Do(
        lambda x, f, g, h: h(torch.cat([f(x), g(x), x.roll(2, 3)], 1)),
        conv(2, 2, 5, padding=2), conv(2, 2, (1, 3), padding=(0, 1)), conv(6, 2, 1),
    ),
    "gate": lambda draw: Do(lambda x: x * torch.sigmoid(x[:, :1].roll(1, 2))),
    "halves": lambda draw: Do(lambda x: torch.cat([x[:, :, : x.shape[2] // 2], x[:, :, x.shape[2] // 2 :]], 2)),
    "rows": lambda draw: Do(lambda x: torch.stack(x.unbind(2), 2)),
    "parts": lambda draw: Do(lambda x: x.split(x.shape[2] // 2 + 1, 2)[0]),
    "assembled": lambda draw: Do(assembled),
    "turned": lambda draw: Do(lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)),
    "tokens": lambda draw: Do(lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).unflatten(2, x.shape[2:])),
}  # fmt: skip

EVEN = {
    "focus": lambda draw: Do(lambda x, f: f(focus(x)), conv(8, 2, draw(1, 3))),
    "space to depth": lambda draw: Do(lambda x, f: f(depth_from_space(x)), conv(8, 2, draw(1, 2))),
    "pixel unshuffle": lambda draw: Do(lambda x, f: f(F.pixel_unshuffle(x, 2)), conv(8, 2, draw(1, 2))),
    "unshuffled by group": lambda draw: Do(lambda x, f: f(F.pixel_unshuffle(x, 2)), conv(8, 2, 1, groups=2)),
}

UNKNOWN = {
    "transposed": lambda draw: nn.ConvTranspose2d(2, 2, 3, stride=2),
    "nearest": lambda draw: nn.Upsample(scale_factor=2),
    "bilinear": lambda draw: nn.Upsample(scale_factor=2, mode="bilinear"),
    "shuffle": lambda draw: Do(lambda x, f: F.pixel_shuffle(f(x), 2), conv(2, 8, 1)),
    "adaptive": lambda draw: nn.AdaptiveAvgPool2d(7),
    "unfold": lambda draw: Do(lambda x, f: f(F.unfold(x, 3).unflatten(2, (x.shape[2] - 2, -1))), conv(18, 2, 1)),
    "order": lambda draw: Do(lambda x: x[:, :, torch.arange(x.shape[2]).roll(1)]),
}


@st.composite
def networks(draw):
    def number(low, high):
        return draw(st.integers(low, high))

    torch.manual_seed(0)
    layers = []
    if draw(st.booleans()):
        layers.append(EVEN[draw(st.sampled_from(sorted(EVEN)))](number))
    for name in draw(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=4)):
        layers.append(LAYERS[name](number))
    if draw(st.integers(0, 5)) == 0:
        layers.append(UNKNOWN[draw(st.sampled_from(sorted(UNKNOWN)))](number))
        layers.append(LAYERS["conv"](number))
    return nn.Sequential(*layers)


def check(model):
    """The field is what positions away from the border see, or as large as the image, or said to be assumed."""
    field = field_of(model)
    for axis in (0, 1):
        everywhere, inside = extents(model, axis)
        size = field.largest[axis]
        if field.assumed:
            assert math.isinf(size) or not inside or size >= max(inside), (axis, field, max(inside, default=0))
        elif size < 0.6 * SIDE and inside:
            assert size == max(inside), (axis, field, max(inside))
        else:  # too large for this image to have a position away from its border
            assert max(everywhere, default=size) > 0.4 * min(size, SIDE), (axis, field, everywhere)
        assert field.smallest[axis] <= size


@settings(max_examples=25, deadline=None, derandomize=True)
@given(networks())
def test_random_networks_see_what_reaches_them(model):
    check(model)


@pytest.mark.parametrize("name", sorted(LAYERS | EVEN | UNKNOWN))
def test_every_layer_between_two_convolutions_sees_what_reaches_it(name):
    torch.manual_seed(0)
    layer = (LAYERS | EVEN | UNKNOWN)[name](lambda low, high: high)
    model = nn.Sequential(conv(2, 2, 3, padding=1), layer, conv(2, 2, 2))
    check(model)
    assert bool(field_of(model).assumed) == (name in UNKNOWN)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (Do(lambda x, f: x.roll(1, 2) + f(x), conv(2, 2, 5, padding=2)), 5),
        (Do(lambda x, f: x.roll(3, 2) + f(x), conv(2, 2, 5, padding=2)), 6),
        (Do(lambda x, f: f(x)[:, :, 1:] + x[:, :, :-5, 4:], conv(2, 2, 5)), 6),
        (Do(lambda x, f: f(focus(x)), conv(8, 2, 3)), 6),
        (Do(lambda x, f: f(depth_from_space(x)), conv(8, 2, 3)), 6),
        (Do(lambda x, f: f(F.pixel_unshuffle(x, 2)), conv(8, 2, 3)), 6),
        (Do(lambda x: depth_from_space(x, 4)), 4),
        (Do(lambda x: x[:, :, 3::4]), 1),
        (Do(lambda x, f: f(x).flip(2).flip(2), conv(2, 2, 3)), 3),
    ],
)
def test_worked_fields(model, size):
    assert field_of(model).largest[0] == size
    check(model)


def test_gradients_reach_what_a_nan_reaches():
    """With positive weights nothing cancels: gradients of a middle row of the output, in two networks."""
    for layers in (
        [conv(2, 2, 3, padding=1), Do(focus), conv(8, 2, 3), Do(lambda x: x.roll(2, 2))],
        [conv(2, 2, 3, stride=2), Do(lambda x: x[:, :, 1:] + x[:, :, :-1]), nn.AvgPool2d(2)],
    ):
        model = nn.Sequential(*layers).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_().add_(0.1)
        image = torch.rand(1, 2, SIDE, SIDE).double().requires_grad_()
        output = model(image)
        middle = output.shape[2] // 2
        output[:, :, middle].sum().backward()
        rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
        assert field_of(model).largest[0] == len(rows) == rows[-1] - rows[0] + 1
        assert torch.equal(reached(model, 0)[middle].nonzero().flatten(), rows)


def windows(x, size):
    n, c, h, w = x.shape
    return x.view(n, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1).reshape(-1, size * size, c)


def from_windows(x, size, h, w):
    n = len(x) // ((h // size) * (w // size))
    return x.view(n, h // size, w // size, size, size, -1).permute(0, 5, 1, 3, 2, 4).reshape(n, -1, h, w)


@pytest.mark.parametrize("attention", [F.scaled_dot_product_attention, lambda q, k, v: (q @ k.mT).softmax(-1) @ v])
def test_attention_within_windows_sees_the_window(attention):
    def attend(x):
        tokens = windows(x, 4)
        return from_windows(attention(tokens, tokens, tokens), 4, *x.shape[2:])

    model = Do(attend)
    assert field_of(model).largest == (4, 4)
    assert set(extents(model, 0)[0]) == {4}
    assert windows(torch.rand(1, 2, 8, 8), 4).shape == (4, 16, 2)
