"""Where the channels of a stage lie is read from the forward pass, not guessed from shapes."""

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

from lwexplain.errors import ModelError
from lwexplain.models.layout import Layout, layouts_of
from lwexplain.models.modules import as_parameters, in_evaluation
from lwexplain.models.ordering import in_channel_order
from lwexplain.models.staged import StagedModel


class Permute(nn.Module):
    def __init__(self, *dims):
        super().__init__()
        self.dims = dims

    def forward(self, x):
        return x.permute(self.dims)


class Windows(nn.Module):
    """(N, C, H, W) -> (windows of all samples, tokens, C)."""

    def forward(self, x):
        n, c, h, w = x.shape
        return x.reshape(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 3, 5, 1).reshape(4 * n, -1, c)


class Recurrent(nn.Module):
    """Columns through an LSTM, which no rule follows, and a linear layer: (N, H, W, C)."""

    def __init__(self):
        super().__init__()
        self.lstm, self.linear = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8)

    def forward(self, x):
        n, c, h, w = x.shape
        rows = self.lstm(x.permute(0, 2, 3, 1).reshape(n * h, w, c))[0]
        return self.linear(rows.reshape(n, h, w, c))


def layouts(model, names, size):
    modules = {name: model.get_submodule(name) for name in names}
    with in_evaluation(model):
        found = layouts_of(model, modules, torch.zeros(1, 3, size, size), within=model)
    return [found[id(module), 1].order for module in modules.values()]


CHANNELS_LAST, TOKENS_LAST, TOKENS_FIRST = (0, 3, 1, 2), None, (1, 0, 2)
CUBE = nn.Conv2d(3, 8, 1)  # of an image of 8 x 8 pixels, so that all sides are alike


@pytest.mark.parametrize(
    ("model", "order"),
    [
        (nn.Sequential(CUBE), None),
        (nn.Sequential(CUBE, Permute(0, 2, 3, 1)), CHANNELS_LAST),
        (nn.Sequential(CUBE, Permute(0, 2, 3, 1), nn.LayerNorm(8), nn.Linear(8, 8)), CHANNELS_LAST),
        (nn.Sequential(CUBE, Permute(0, 2, 3, 1), nn.Linear(8, 8), Permute(0, 3, 1, 2)), None),
        (nn.Sequential(CUBE, Permute(0, 1, 3, 2)), (0, 1, 3, 2)),
        (nn.Sequential(CUBE, Recurrent()), CHANNELS_LAST),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1)), None),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelUnshuffle(2)), None),
        (nn.Sequential(CUBE, nn.Flatten(2)), (0, 2, 1)),
        (nn.Sequential(CUBE, nn.Flatten(2), Permute(0, 2, 1)), TOKENS_LAST),
        (nn.Sequential(CUBE, nn.Flatten(2), Permute(2, 0, 1)), TOKENS_FIRST),
        (nn.Sequential(CUBE, Permute(0, 2, 3, 1), nn.AdaptiveAvgPool3d((1, 1, 8))), CHANNELS_LAST),
        (nn.Sequential(CUBE, nn.AdaptiveAvgPool2d(1)), None),
        (nn.Sequential(CUBE, nn.Flatten()), None),
    ],
)
def test_channels_are_found_also_where_all_sides_are_alike(model, order):
    assert layouts(model, [str(len(model) - 1)], 8) == [order]


def test_torchvisions_transformers():
    swin = SwinTransformer([4, 4], 12, [2, 1], [1, 1], [4, 4])
    assert layouts(swin, ["features.0", "features.1.1", "features.3", "norm"], 64) == [CHANNELS_LAST] * 4
    assert layouts(swin, ["permute", "avgpool"], 64) == [None, None]
    vit = VisionTransformer(16, 4, 2, 2, 16, 16)  # as many tokens as channels and one more
    assert layouts(vit, ["conv_proj", "encoder.layers.encoder_layer_1"], 16) == [None, None]


@pytest.mark.parametrize(
    ("arch", "options", "stages", "order"),
    [
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 4, "embed_dim": 12}, "layers", CHANNELS_LAST),
        ("mambaout_femto", {"depths": (1, 1, 1, 1)}, "stages", CHANNELS_LAST),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, "stages", None),
        ("poolformer_s12", {}, "stages", None),
    ],
)
def test_networks_of_timm_of_either_kind(arch, options, stages, order):
    timm = pytest.importorskip("timm", reason="the extra 'models' is not installed")
    model = timm.create_model(arch, **options)
    assert layouts(model, [f"{stages}.0", f"{stages}.3"], 64) == [order, order]


def test_an_output_whose_rows_are_no_samples_is_refused():
    with pytest.raises(ModelError, match=r"stage '1' gives \(4, 16, 8\) for one image"):
        layouts(nn.Sequential(CUBE, Windows()), ["1"], 8)


def test_what_nothing_says_is_assumed_and_said():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 5, 6, 7)

    model = nn.Sequential(Constant())
    found = layouts_of(model, {"0": model[0]}, torch.zeros(1, 3, 8, 8), within=model)[id(model[0]), 1]
    assert found.order is None
    assert "channels first is assumed of the output (1, 5, 6, 7)" in found.note


def test_in_order_and_as_given_undo_each_other():
    x = torch.randn(2, 3, 4, 5)
    layout = Layout((0, 3, 1, 2))
    assert layout.in_order(x).shape == (2, 5, 3, 4)
    assert torch.equal(layout.as_given(layout.in_order(x)), x)
    assert Layout().in_order(x) is Layout().as_given(x) is x


def test_a_staged_network_with_its_channels_last_gives_them_first():
    stages = {
        "a": nn.Conv2d(3, 8, 3),
        "b": nn.Sequential(Permute(0, 2, 3, 1), nn.Linear(8, 12)),
        "c": nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 16)),
    }
    model = StagedModel(stages, (3, 9, 9), 4, tail=nn.Sequential(nn.Flatten(), nn.Linear(7 * 7 * 16, 4)))
    ordered = in_channel_order(model.eval())
    assert [site.channels for site in ordered.sites()] == [8, 12, 16]
    assert ordered.names == ["a", "b", "c"]
    assert ordered.own_tail
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(ordered(x), model(x))
    assert not any(part.training for part in ordered.modules())
    assert in_channel_order(ordered) is ordered


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_take_the_dtype_that_the_network_computes_with(dtype):
    class Mixed(nn.Module):
        """Its first parameter is of another dtype than its first layer."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.conv, self.norm = nn.Conv2d(3, 4, 3).to(dtype), nn.GroupNorm(1, 4)

        def forward(self, x):
            return self.norm(self.conv(x).float())

    class Casting(Mixed):
        def forward(self, x):
            return super().forward(x.to(dtype))

    images = torch.zeros(2, 3, 8, 8)
    assert as_parameters(images, nn.Conv2d(3, 4, 3).to(dtype)).dtype == dtype
    assert as_parameters(images, Mixed()).dtype == dtype
    assert as_parameters(images, Casting()).dtype == torch.float32
    assert as_parameters(images.long(), Mixed()).dtype == torch.int64
    assert not any(part._forward_pre_hooks for part in Mixed().modules())
