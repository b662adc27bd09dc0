"""Networks of all kinds are written after a stage, however they were cut."""

import pytest
import torch
from torch import nn

from lwexplain.exporting.formats import open_network, write_network
from lwexplain.exporting.shorter_network import Normalisation, ShorterNetwork, StageHead, portable
from lwexplain.models.cutting import cut_network
from lwexplain.models.heads.base import HEADS


class Sized(nn.Module):
    """Branches by the size of what it is given, which symbolic tracing cannot follow."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.classifier = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        x = self.first(x)
        if x.shape[-1] > 4:
            x = x.relu_()
        return self.classifier(self.second(x).mean((2, 3)))


ROW = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize(
    ("network", "names", "file_format"),
    [(Sized(), ["first", "second"], "pt2"), (ROW, ["0.0", "1"], "pt2"), (ROW, ["0.0", "1"], "onnx")],
)
def test_a_file_gives_the_logits_of_the_network_cut_there(network, names, file_format, tmp_path):
    cut = cut_network(network, names, torch.rand(3, 3, 8, 8), 5)
    assert cut.is_exportable
    head = HEADS.create("linear", cut.sites()[0])
    short = ShorterNetwork(cut, StageHead(1, head, "fresh"), Normalisation([0.5] * 3, [0.2] * 3))
    images, path = torch.rand(5, 3, 8, 8), tmp_path / "net"
    write_network(
        portable(short),
        [images[:2]],
        path,
        file_format,
        input_names=["images"],
        output_names=["logits"],
        metadata={},
    )
    with torch.no_grad():
        expected = head(network.get_submodule(names[0])((images - 0.5) / 0.2))
    torch.testing.assert_close(open_network(path, file_format)(images)[0], expected)
