"""Parity: rounding passes at any size of the logits, and what is more than rounding does not."""

import pytest
import torch
from torch import nn

from lwexplain.errors import ExportError
from lwexplain.exporting.parity import parity, require_parity

SIZES = [1e-6, 1e-3, 1.0, 1e3, 1e6]


def network(scale=1.0, offset=0.0):
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(16 if k else 3, 16, 3, padding=1), nn.ReLU()) for k in range(8)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 64, 5)).eval()
    with torch.no_grad():
        net[-1].weight.mul_(30 * scale)
        net[-1].bias.mul_(30 * scale).add_(offset)
    return net


def in_double(net):
    """The same network by other arithmetic."""
    return lambda batch: net.double()(batch.double()).float()


IMAGES = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", SIZES)
def test_rounding_passes_whatever_the_size_of_the_logits(scale):
    found = parity(in_double(network(scale)), network(scale), IMAGES)
    assert 0 < found[7].value < found[7].limit
    assert found[7].limit == pytest.approx(1e-4 * found[7].spread, rel=0.01)
    require_parity(found, "net.onnx")


def test_rounding_of_large_logits_is_more_than_a_ten_thousandth():
    assert parity(in_double(network(1e6)), network(1e6), IMAGES)[7].value > 1e-4


def test_logits_far_from_zero_may_differ_by_roundings_of_themselves():
    right = network(offset=1e5)
    found = parity(lambda batch: right(batch).nextafter(torch.tensor(torch.inf)), right, IMAGES)
    assert found[7].value > 2**-24 * 1e5
    require_parity(found, "net.onnx")


@pytest.mark.parametrize("scale", SIZES)
def test_a_bias_that_is_off_by_a_thousandth_of_the_spread_is_refused(scale):
    right, wrong = network(scale), network(scale)
    spread = parity(right, right, IMAGES)[7].spread
    with torch.no_grad():
        wrong[-1].bias[2] += 1e-3 * spread
    with pytest.raises(ExportError, match=r"differs from the network by .* at batch 1; with logits .* apart"):
        require_parity(parity(wrong, right, IMAGES), "net.onnx")


def test_a_small_head_is_not_judged_by_the_spread_of_a_large_one():
    def heads(small):
        return lambda batch: torch.stack([network(1e3)(batch), network(1e-3)(batch) + small], dim=1)

    require_parity(parity(heads(0.0), heads(0.0), IMAGES), "segments")
    with pytest.raises(ExportError, match="segments differs"):
        require_parity(parity(heads(1e-3), heads(0.0), IMAGES), "segments")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(value):
    with pytest.raises(ExportError, match="differs"):
        require_parity(parity(lambda batch: network()(batch) + value, network(), IMAGES), "net.onnx")


def test_equal_logits_pass_even_where_all_are_zero():
    def zero(batch):
        return torch.zeros(len(batch), 3)

    require_parity(parity(zero, zero, IMAGES), "net.onnx")
    with pytest.raises(ExportError, match="differs"):
        require_parity(parity(lambda batch: zero(batch) + 1e-9, zero, IMAGES), "net.onnx")
