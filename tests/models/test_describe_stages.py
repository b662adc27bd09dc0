"""Outputs, parameters and FLOPs of the stages of any network."""

import pytest
import torch
from torch import nn

import lwexplain as lw
from lwexplain.errors import CaptureError, ModelError, UserCodeError
from lwexplain.models.describe_stages import describe_stages

IMAGE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def small():
    """Conv 3x3 of 1 to 4 channels on 8x8, then of 4 to 2 on 6x6, and a head of 32 to 3."""
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)]
    return nn.Sequential(*layers)


def test_parameters_and_flops_are_those_counted_by_hand():
    first, second = describe_stages(small(), IMAGE, ["1", "3"])
    assert (first.shape, second.shape) == ((4, 6, 6), (2, 4, 4))
    assert (first.parameters, first.parameters_to_here) == (4 * 9 + 4, 40)
    assert (second.parameters, second.parameters_to_here) == (2 * 4 * 9 + 2, 40 + 74)
    assert (first.flops, first.flops_to_here) == (2 * 36 * 4 * 9, 2592)
    assert (second.flops, second.flops_to_here) == (2 * 16 * 2 * 36, 2592 + 2304)
    assert (first.name, first.module) == ("1", "ReLU")


def test_the_last_stage_and_the_head_make_up_the_whole():
    from torch.utils.flop_counter import FlopCounterMode

    model = small()
    last = describe_stages(model, IMAGE, ["5"])[0]
    assert last.parameters_to_here == sum(parameter.numel() for parameter in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(IMAGE)
    assert last.flops_to_here == counter.get_total_flops()


def test_shared_weights_count_once_and_calls_of_a_module_are_told_apart():
    relu, conv = nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1, bias=False)
    model = nn.Sequential(conv, relu, conv, relu, nn.Flatten(), nn.Linear(64, 2))
    first, second = describe_stages(model, IMAGE, ["1#1", "1#2"])
    assert (first.parameters_to_here, second.parameters_to_here) == (9, 9)
    assert second.flops_to_here == 2 * first.flops_to_here


def test_shapes_are_in_order_also_where_the_network_has_its_channels_or_tokens_elsewhere():
    from torchvision.models import SwinTransformer

    swin = SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2])
    image = torch.randn(1, 3, 32, 32)
    shapes = [stage.shape for stage in describe_stages(swin, image, ["features.0", "features.3.1"])]
    assert shapes == [(8, 16, 16), (16, 8, 8)]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = lw.find_stages(model, (1, 8, 8))
    assert list(found["stage"]) == ["2"]
    assert model.training
    assert not model[2]._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_table_has_a_row_a_stage():
    table = lw.find_stages(small(), (1, 8, 8), stages=r"[13]")
    assert list(table["stage"]) == ["1", "3"]
    assert list(table["depth"]) == [1, 2]
    assert list(table["flops_to_here"]) == [2592, 4896]


@pytest.mark.parametrize(
    ("call", "family", "words"),
    [
        (lambda: lw.find_stages(small(), (8, 8)), CaptureError, "image_shape is .8, 8.; give .channels"),
        (lambda: lw.find_stages(small(), (1, 8, 0)), CaptureError, "image_shape"),
        (lambda: lw.find_stages(small(), "small"), CaptureError, "image_shape"),
        (lambda: lw.find_stages(nn.Linear), ModelError, "pass an object of it"),
        (lambda: lw.find_stages(small(), (3, 8, 8)), UserCodeError, r"image of shape \(3, 8, 8\)"),
        (lambda: lw.find_stages(small(), (1, 8, 8), ["3", "1"]), CaptureError, "'1' runs before '3'"),
        (lambda: lw.find_stages(small(), (1, 8, 8), ["1#2"]), CaptureError, "gives no tensor"),
    ],
)
def test_what_cannot_be_described_is_said(call, family, words):
    with pytest.raises(family, match=words):
        call()
