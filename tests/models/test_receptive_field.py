"""Receptive fields equal the closed forms, what published tables say, and what a NaN in the image reaches."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lwexplain.data.torchvision_sets  # noqa: F401  torchvision loads beside a torch without its operators
from lwexplain.errors import ModelError
from lwexplain.models.receptive_field import receptive_fields


def fields_of(model, names, shape=(3, 64, 64)):
    model.eval()
    return receptive_fields(model, {name: (model.get_submodule(name), 1) for name in names}, torch.zeros(1, *shape))


def sizes(model, names, shape=(3, 64, 64)):
    return [field.after.largest for field in fields_of(model, names, shape).values()]


def whole(sizes):
    return all(math.isinf(size) for pair in sizes for size in pair)


def reached(model, side):
    """In how many rows and columns of the image a NaN reaches the position in the middle of the output."""
    counts = []
    for axis in (2, 3):
        images = torch.zeros(side, 1, side, side)
        for k in range(side):
            images[k].select(axis - 1, k).fill_(math.nan)
        with torch.no_grad():
            output = model(images)
        middle = output[:, :, output.shape[2] // 2, output.shape[3] // 2]
        counts.append(int(middle.isnan().any(1).sum()))
    return counts[0], counts[1]


def test_a_chain_of_windows_follows_the_recurrence():
    layers = [(3, 1, 1), (3, 2, 1), (5, 1, 2), (2, 2, 1), (3, 1, 3)]  # kernel, stride, dilation
    model = nn.Sequential(*(nn.Conv2d(1, 1, k, s, dilation=d) for k, s, d in layers))
    size, jump = 1, 1
    for (kernel, stride, dilation), field in zip(
        layers, fields_of(model, [str(i) for i in range(5)], (1, 64, 64)).values(), strict=True
    ):
        assert field.before.largest == (size, size)
        size, jump = size + (kernel - 1) * dilation * jump, jump * stride
        assert field.after.largest == field.after.smallest == (size, size)
        assert field.after.jump == (jump, jump)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(
            nn.Conv2d(1, 2, (3, 5)), nn.ReLU(), nn.MaxPool2d((2, 3)), nn.Conv2d(2, 1, (1, 3), dilation=(1, 2))
        ),
        nn.Sequential(
            nn.Conv2d(1, 2, 3, stride=2), nn.BatchNorm2d(2), nn.AvgPool2d(3, 1), nn.Conv2d(2, 2, 3, groups=2)
        ),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(19), nn.Conv2d(4, 1, (3, 1))),
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 4, 3), nn.PReLU(), nn.MaxPool2d(3, 2, dilation=2), nn.Dropout()),
    ],
)
def test_a_nan_in_the_image_reaches_as_far(model):
    model.eval()
    side = 40
    assert sizes(model, [str(len(model) - 1)], (1, side, side)) == [reached(model, side)]


def test_resnet18_has_the_published_receptive_fields():
    from torchvision.models import resnet18

    names = ["conv1", "maxpool", "layer1.0", "layer1", "layer2", "layer3", "layer4"]
    fields = fields_of(resnet18(), names)
    assert [field.after.largest[0] for field in fields.values()] == [7, 11, 27, 43, 99, 211, 435]
    assert fields["layer4"].before.largest == (211, 211)
    assert fields["layer4"].after.smallest == (11, 11)  # the shortcuts only step over pixels
    assert whole(sizes(resnet18(), ["avgpool", "fc"]))


def test_vgg16_and_inception_have_the_published_receptive_fields():
    """Araujo, Norris and Sim 2019, "Computing receptive fields of convolutional neural networks", Table 1."""
    from torchvision.models import inception_v3, vgg16

    assert sizes(vgg16(init_weights=False), ["features"]) == [(212, 212)]
    inception = inception_v3(init_weights=False, aux_logits=False)
    assert sizes(inception, ["Mixed_7c"], (3, 96, 96)) == [(1311, 1311)]


def test_a_linear_layer_at_each_position_sees_no_more_than_the_position():
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)
            self.after = nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.after(self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2))

    assert sizes(nn.Sequential(nn.Conv2d(3, 4, 5), ChannelsLast()), ["0", "1"]) == [(5, 5), (7, 7)]


class Tokens(nn.Module):
    """Patches of 8 pixels as tokens (N, T, D), and what mixes them, or does not."""

    def __init__(self, mix):
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 8, 8, stride=8), mix

    def forward(self, x):
        return self.mix(self.patches(x).flatten(2).transpose(1, 2))


class Attention(nn.Module):
    def forward(self, x):
        return x + F.scaled_dot_product_attention(x, x, x)


def test_attention_sees_the_whole_image_and_a_layer_on_tokens_does_not():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    for mix in (encoder, Attention()):
        field = fields_of(Tokens(mix), ["mix"])["mix"]
        assert whole([field.after.largest])
        assert not field.after.assumed
    assert fields_of(Tokens(Attention()), ["mix"])["mix"].after.smallest == (8, 8)  # past the attention
    assert sizes(Tokens(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())), ["mix"]) == [(8, 8)]


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Columns(nn.Module):
    def forward(self, x):
        return x.amax(2)


class Squeeze(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


def test_what_brings_positions_together_sees_the_whole_image():
    conv = nn.Conv2d(3, 4, 3)
    together = (Mean(), nn.AdaptiveMaxPool2d(1), Squeeze(), nn.Sequential(nn.Flatten(), nn.Linear(4 * 62 * 62, 2)))
    for layer in together:
        assert whole(sizes(nn.Sequential(conv, layer), ["1"]))
    assert sizes(nn.Sequential(conv, Columns()), ["1"]) == [(math.inf, 3)]
    assert fields_of(nn.Sequential(conv, Squeeze()), ["1"])["1"].after.smallest == (3, 3)


class Branches(nn.Module):
    """Two paths, put side by side; the second steps over every other pixel, as option A of the first ResNets."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 5, stride=2, padding=2), nn.Conv2d(7, 2, 3)

    def forward(self, x):
        return self.last(torch.cat([self.conv(x), x[:, :, ::2, ::2]], dim=1))


def test_where_paths_meet_the_largest_and_the_smallest_are_kept():
    field = fields_of(Branches(), ["last"])["last"]
    assert field.before.largest == (5, 5)
    assert field.before.smallest == (1, 1)
    assert field.after.largest == (9, 9)
    assert field.after.smallest == (5, 5)


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def test_shuffling_channels_moves_nothing_in_the_image():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Shuffle(), nn.Conv2d(4, 4, 3, groups=2))
    assert sizes(model, ["1", "2"]) == [(3, 3), (5, 5)]


def test_a_map_of_one_pixel_is_still_the_map_of_an_image():
    model = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(4, 2))
    assert sizes(model, ["0"], (3, 8, 8)) == [(8, 8)]
    assert whole(sizes(model, ["2"], (3, 8, 8)))


def test_an_unknown_operation_is_named_and_taken_to_see_everything():
    field = fields_of(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2)), ["1"])["1"].after
    assert whole([field.largest])
    assert field.assumed == {"pixel_shuffle"}


def test_each_call_of_a_module_is_a_stage_of_its_own():
    conv = nn.Conv2d(3, 3, 3)
    found = receptive_fields(nn.Sequential(conv, conv), {"a": (conv, 1), "b": (conv, 2)}, torch.zeros(1, 3, 9, 9))
    assert [field.after.largest for field in found.values()] == [(3, 3), (5, 5)]


def test_the_pass_ends_at_the_last_stage_and_leaves_no_hook():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("too far")

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Broken())
    assert sizes(model, ["0"]) == [(3, 3)]
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks
    with pytest.raises(RuntimeError, match="too far"):
        fields_of(model, ["0", "1"])
    assert not model[0]._forward_hooks


def test_what_has_no_receptive_field_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.add_module("1", nn.Identity())
    with pytest.raises(ModelError, match="not run"):
        receptive_fields(model[0], {"1": (model[1], 1)}, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ModelError, match="receptive fields are of"):
        receptive_fields(model, {"0": (model[0], 1)}, torch.zeros(1, 8))
