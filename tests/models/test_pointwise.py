"""The pointwise convolution with a stride that is safe on the CPU is the one of torch."""

import pytest
import torch
from torch import nn

from lwexplain.models.pointwise import SubsampledPointwise, pointwise


@pytest.mark.parametrize("inputs", [1, 4, 8, 15])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 2)])
@pytest.mark.parametrize("stride", [2, 3])
def test_outputs_and_gradients_are_those_of_torch(inputs, height, width, stride):
    ours = pointwise(inputs, 6, stride)
    assert isinstance(ours, SubsampledPointwise)
    theirs = nn.Conv2d(inputs, 6, 1, stride, bias=False)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(3, inputs, height, width)
    found = []
    for layer in (ours, theirs):  # torch's own in the memory format in which its gradients are right
        given = images.clone().requires_grad_()
        outputs = layer(given)
        outputs.square().sum().backward()
        assert layer.weight.grad is not None
        assert given.grad is not None
        found.append((outputs.detach(), layer.weight.grad, given.grad))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there)


def test_wide_convolutions_and_those_without_a_stride_are_torchs_own():
    assert type(pointwise(16, 32, 2)) is nn.Conv2d
    assert type(pointwise(4, 8, 1)) is nn.Conv2d
