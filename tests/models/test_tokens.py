"""The patches among the tokens of a transformer are found by watching a forward pass, and never guessed."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from lwexplain.models.tokens import TokenGrid, UnknownGrid, token_grid


class Patches(nn.Module):
    """Tokens of an image by a convolution or by cutting it into patches, with others before or behind them."""

    def __init__(self, by="convolution", before=0, behind=0, side=4, dims=6):
        super().__init__()
        self.by, self.side, self.dims = by, side, dims
        self.convolution = nn.Conv2d(3, dims, side, stride=side)
        self.linear = nn.Linear(3 * side * side, dims)
        self.before, self.behind = (nn.Parameter(torch.randn(1, count, dims)) for count in (before, behind))

    def forward(self, x):
        if self.by == "convolution":
            tokens = self.convolution(x).flatten(2).transpose(1, 2)
        elif self.by == "unfold":
            tokens = self.linear(nn.functional.unfold(x, self.side, stride=self.side).transpose(1, 2))
        else:
            n, channels, height, width = x.shape
            rows, columns, side = height // self.side, width // self.side, self.side
            cut = x.reshape(n, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
            tokens = self.linear(cut.reshape(n, rows * columns, -1))
        parts = [part.expand(len(x), -1, -1) for part in (self.before, self.behind)]
        parts = [parts[0], tokens, parts[1]]
        parts = [part for part in parts if part.shape[1]]
        return torch.cat(parts, dim=1) if len(parts) > 1 else tokens


def grid_of(model, shape):
    return token_grid(lambda look: look(model(torch.zeros(1, 3, *shape))), shape)


@pytest.mark.parametrize("by", ["convolution", "unfold", "cuts"])
@pytest.mark.parametrize(("before", "behind"), [(0, 0), (1, 0), (2, 0), (5, 0), (0, 1), (1, 4)])
@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24), (8, 48)])
def test_patches_are_found_whatever_else_stands_beside_them(by, before, behind, shape):
    rows, columns = shape[0] // 4, shape[1] // 4
    expected = TokenGrid(rows * columns + before + behind, before, rows, columns)
    assert grid_of(Patches(by, before, behind), shape) == expected
    assert expected.others == before + behind


def test_tokens_go_to_their_places_and_back():
    grid = TokenGrid(9, 2, 2, 3)
    tokens = torch.randn(4, 9, 5)
    assert torch.equal(grid.patch_tokens(tokens), tokens[:, 2:8])
    placed = grid.to_grid(tokens)
    assert placed.shape == (4, 5, 2, 3)
    assert torch.equal(placed[:, :, 1, 0], tokens[:, 5])
    assert torch.equal(grid.from_grid(placed, tokens), tokens)
    assert torch.equal(grid.from_grid(0 * placed, tokens)[:, [0, 1, 8]], tokens[:, [0, 1, 8]])


def test_a_class_token_and_registers_may_join_one_after_another():
    patches = Patches("convolution", before=1)

    def with_registers(x):
        tokens = patches(x)
        registers = torch.zeros(len(x), 4, 6)
        return torch.cat([registers, tokens], dim=1)

    assert grid_of(with_registers, (16, 40)) == TokenGrid(45, 5, 4, 10)


@pytest.mark.parametrize("layer", ["conv_proj", "encoder.dropout", "encoder.layers.encoder_layer_0", "encoder.ln"])
def test_the_layers_of_torchvisions_transformer(layer):
    model = VisionTransformer(32, 8, 1, 1, 8, 16, num_classes=3).eval()
    found = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: found.append(output))
    grid = token_grid(lambda look: (model(torch.zeros(1, 3, 32, 32)), look(found[0])), (32, 32))
    handle.remove()
    assert grid == (None if layer == "conv_proj" else TokenGrid(17, 1, 4, 4))


@pytest.mark.parametrize("others", [0, 1])
def test_merged_tokens_lie_on_the_halved_grid(others):
    patches = nn.Conv2d(3, 6, 4, stride=4)

    def merged(x):
        grid = patches(x)
        tokens = torch.cat([torch.zeros(len(x), others, 6), grid.flatten(2).transpose(1, 2)], dim=1)
        places = tokens[:, others:].transpose(1, 2).reshape(grid.shape)
        fewer = places.reshape(len(x), 6, 2, 2, 5, 2).mean((3, 5)).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, :others], fewer], dim=1) if others else fewer

    assert grid_of(merged, (16, 40)) == TokenGrid(10 + others, others, 2, 5)


@pytest.mark.parametrize(
    ("tokens", "shape", "reason"),
    [
        (7, (12, 10), "7 tokens do not lie on a grid over an image of 12 x 10 pixels"),
        (17, (12, 12), r"17 tokens over an image of 12 x 12 pixels may be 4 x 4 and 1 others, 3 x 3 and 8 others"),
        (500, (16, 16), "500 tokens do not lie on a grid"),
    ],
)
def test_what_no_operation_tells_is_refused_where_several_grids_fit(tokens, shape, reason):
    with pytest.raises(UnknownGrid, match=reason):
        grid_of(lambda x: torch.zeros(1, tokens, 4), shape)


def test_tokens_without_others_need_no_sign():
    assert grid_of(lambda x: torch.zeros(1, 40, 4), (16, 40)) == TokenGrid(40, 0, 4, 10)
    assert grid_of(lambda x: torch.zeros(1, 197, 4), (224, 224)) == TokenGrid(197, 1, 14, 14)
    assert grid_of(lambda x: torch.zeros(1, 4, 5, 5), (20, 20)) is None
