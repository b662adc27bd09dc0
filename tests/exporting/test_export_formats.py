"""Formats: any head at any batch size, and nothing in the file of where it was made."""

from pathlib import Path

import pytest
import torch

from lwexplain.config import ModelConfig
from lwexplain.errors import ExportError
from lwexplain.exporting.formats import format_of, open_network, write_network
from lwexplain.exporting.parity import parity, require_parity
from lwexplain.exporting.shorter_network import Normalisation, ShorterNetwork, StageHead, portable
from lwexplain.models.build import build_model
from lwexplain.models.heads.base import HEADS

MEAN, STD = [0.3, 0.5, 0.6], [0.2, 0.3, 0.25]


def network_of(head, size=14, depth=2):
    """Random weights, with the batch statistics of random images."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="resnet18", width=4, units="group"), (3, size, size), 5, seed=0)
    module = HEADS.create(head, model.sites()[depth - 1])
    network = ShorterNetwork(model, StageHead(depth, module, "local"), Normalisation(MEAN, STD))
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(16, 3, size, size))
    return portable(network)


def write(network, path, file_format):
    write_network(
        network,
        [torch.rand(2, 3, 14, 14)],
        path,
        file_format,
        input_names=["images"],
        output_names=["logits"],
        metadata={"classes": ["a", "é"]},
    )
    return open_network(path, file_format)


@pytest.mark.parametrize("file_format", ["onnx", "pt2"])
@pytest.mark.parametrize("head", ["conv", "mlp_sr", "auglocal"])
def test_every_head_survives_at_any_batch_size(tmp_path, head, file_format):
    network = network_of(head)
    written = write(network, tmp_path / "net", file_format)
    require_parity(parity(lambda x: written(x)[0], network, torch.rand(7, 3, 14, 14)), "net")


def test_normalisation_is_inside(tmp_path):
    network = network_of("linear")
    images = torch.rand(3, 3, 14, 14)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        state = (images - mean) / std
        expected = network.head(network.prefix(state))
    torch.testing.assert_close(write(network, tmp_path / "net", "pt2")(images)[0], expected)


@pytest.mark.parametrize("file_format", ["onnx", "pt2"])
def test_the_file_says_nothing_of_where_it_was_made(tmp_path, file_format):
    path = tmp_path / "net"
    write(network_of("linear"), path, file_format)
    content = path.read_bytes()
    assert b"lwexplain" not in content
    assert str(Path(torch.__file__).parent).encode() not in content


def test_the_batch_dimension_of_an_onnx_file_is_called_batch(tmp_path):
    import onnx

    write(network_of("linear"), tmp_path / "net", "onnx")
    graph = onnx.load(tmp_path / "net").graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert (graph.input[0].name, graph.output[0].name) == ("images", "logits")


def test_the_suffix_says_the_format_and_must_not_contradict_it():
    assert format_of(Path("net.onnx"), None) == "onnx"
    assert format_of(Path("net.PT2"), None) == "pt2"
    assert format_of(Path("net.bin"), "onnx") == "onnx"
    with pytest.raises(ExportError, match=r"end it in \.pt2 or \.onnx"):
        format_of(Path("net"), None)
    with pytest.raises(ExportError, match="contradict"):
        format_of(Path("net.pt2"), "onnx")
    with pytest.raises(ExportError, match="choose one of pt2, onnx"):
        format_of(Path("net.bin"), "torchscript")


def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence(tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, images):
            return images if float(images.sum()) > 0 else -images

    with pytest.raises(ExportError, match="cannot be written as pt2"):
        write(Branching(), tmp_path / "net", "pt2")
