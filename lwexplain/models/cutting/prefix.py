"""The first part of a network as a module: images to the output of a stage, in order."""

from torch import Tensor, nn

from lwexplain.models.layout import Layout
from lwexplain.models.modules import cast_images, first_tensor


class Prefix(nn.Module):
    """Images (N, C, H, W) -> what ``network`` makes of them as (N, C, H, W), (N, T, D) or (N, D).

    Images are cast to the dtype of the parameters where these are all of one.
    """

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.network = network
        self.layout = layout
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        output = first_tensor(self.network(cast_images(images, self.network)))
        assert output is not None
        return self.layout.in_order(output)
