"""Convolutions of 1 x 1 with a stride, computed where they are safe."""

from torch import Tensor, nn
from torch.nn import functional as F

REGISTER_CHANNELS = 16
"""Float32 channels in the widest vector register of a CPU."""


class SubsampledPointwise(nn.Conv2d):
    """A 1 x 1 convolution with a stride, computed as one without a stride on the pixels that it reads.

    The parameters and the outputs (N, C, H, W) are those of ``nn.Conv2d``. On the CPU, with the channels last in
    memory, the gradient of the weights of ``nn.Conv2d`` is written past its room where fewer channels than a vector
    register holds go in: the process dies, or its numbers are wrong (github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def pointwise(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """A 1 x 1 convolution without bias, of the kind whose gradients are right for this number of input channels."""
    narrow = stride != 1 and inputs < REGISTER_CHANNELS
    return (SubsampledPointwise if narrow else nn.Conv2d)(inputs, outputs, 1, stride, bias=False)
