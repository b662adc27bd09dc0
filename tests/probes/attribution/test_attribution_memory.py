"""Batches shrink where memory is short."""

import pytest
import torch
from torch import nn

from lwexplain.errors import ProbeError
from lwexplain.probes.attribution.base import network_of_model
from lwexplain.probes.attribution.memory import Chunker, bytes_of, chunker_for, is_out_of_memory
from lwexplain.probes.attribution.methods import METHODS, method_of


class Limited:
    """The identity, which runs out of memory above ``most`` rows."""

    def __init__(self, most, error):
        self.most, self.error, self.seen = most, error, []

    def __call__(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        return x


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of\nmemory"),
        MemoryError(),
    ],
)
def test_a_chunk_that_does_not_fit_is_halved_for_good(error):
    x = torch.arange(40.0)
    chunker, limited = Chunker(32), Limited(9, error)
    assert torch.equal(torch.cat(chunker.run(limited, x)), x)
    assert limited.seen == [32, 16, 8, 8, 8, 8, 8]
    assert chunker.size == 8
    assert torch.equal(torch.cat(chunker.run(limited, x[:9])), x[:9])
    assert limited.seen[-2:] == [8, 1]


def test_one_row_that_does_not_fit_is_an_error_that_says_so():
    with pytest.raises(ProbeError, match=r"one image alone does not fit into memory \(out of memory\)"):
        Chunker(4).run(Limited(0, RuntimeError("out of memory")), torch.arange(4.0))


def test_other_errors_are_passed_on():
    with pytest.raises(RuntimeError, match="shapes"):
        Chunker(4).run(Limited(0, RuntimeError("shapes do not fit")), torch.arange(4.0))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_the_size_follows_from_the_bytes_of_one_image():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2))
    network, image = network_of_model(model), torch.randn(1, 1, 10, 10)
    each = bytes_of(network, image)
    assert 2 * 4 * 400 <= each <= 8 * 4 * 400
    assert chunker_for(network, image, memory_bytes=20 * each).size == 10
    assert chunker_for(network, image, memory_bytes=each).size == 1
    assert chunker_for(network, image, memory_bytes=2**30).size == 64
    assert chunker_for(network, image, memory_bytes=2**30, size=7).size == 7
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not image.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_maps_in_small_chunks_after_running_out_of_memory(method):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    largest = 0
    limit = 10**6

    def remember(_module, inputs):
        nonlocal largest
        largest = max(largest, len(inputs[0]))
        if len(inputs[0]) > limit:
            raise RuntimeError("out of memory")

    model.register_forward_pre_hook(remember)
    network = network_of_model(model, body)
    images, targets = torch.randn(6, 2, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    whole = method_of(method).explain(network, images, targets, Chunker(64))
    assert largest >= 6
    limit = 4
    chunker = Chunker(64)
    parts = method_of(method).explain(network, images, targets, chunker)
    assert chunker.size <= 4
    torch.testing.assert_close(parts.maps, whole.maps, rtol=1e-3, atol=1e-5)
