"""FLOPs and memory are those of the closed form."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lwexplain.config import ModelConfig
from lwexplain.models.build import build_model
from lwexplain.models.cost import inference_memory, measure_costs
from lwexplain.models.describe_stages import describe_stages
from lwexplain.probes.cost import CostProbe

FLOAT = 4
"""Bytes of a number."""


def test_flops_of_attention_are_those_of_the_closed_form():
    """Projections 2 T D (3 D) and 2 T D D, scores and their weighting 2 T T D each."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    tokens, width = 9, 16
    expected = 2 * tokens * width * 3 * width + 2 * tokens * width * width + 2 * (2 * tokens * tokens * width)
    assert measure_costs([Attention().eval()], (16, 3, 3))[0].flops == expected


class HandsOnAParameter(nn.Module):
    """A class token goes into a module as a view of the parameter that it is, as in PiT."""

    def __init__(self):
        super().__init__()
        self.token, self.stage = nn.Parameter(torch.ones(1, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.stage(self.token.expand(len(x), -1)) + self.stage(x.mean((2, 3)))


def test_a_parameter_that_goes_into_a_module_is_no_obstacle_and_keeps_its_gradient():
    model = HandsOnAParameter()
    assert measure_costs([model], (4, 2, 2))[0].flops == 2 * 2 * 4 * 4
    assert describe_stages(model, torch.zeros(1, 4, 2, 2), ["stage#2"])[0].flops_to_here == 2 * 2 * 4 * 4
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_memory_of_a_chain_is_its_weights_and_the_two_largest_neighbours():
    """Rows of 5, 40 and 30 numbers: the first layer's input is the image, which does not count; the second layer runs
    while 40 and 30 numbers are alive, the third while 30 and 2 are."""
    net = nn.Sequential(nn.Linear(5, 40), nn.Linear(40, 30), nn.Linear(30, 2)).eval()
    weights = 5 * 40 + 40 + 40 * 30 + 30 + 30 * 2 + 2
    assert inference_memory(net, torch.zeros(1, 5)) == FLOAT * (weights + 40 + 30)


def test_memory_of_a_convolution_counts_buffers_and_not_what_training_would_keep():
    """A 3x3 convolution of 3 to 8 channels on 6x6, batch norm (4 x 8 numbers, and an int64 of 8 bytes) and ReLU: two
    maps at a time; the rectified one and the mean over positions at the end are less."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )
    expected = FLOAT * (3 * 8 * 9 + 4 * 8 + 2 * 8 * 36) + 8
    assert inference_memory(net.eval(), torch.zeros(1, 3, 6, 6)) == expected


def test_an_operation_in_place_takes_no_memory():
    net = nn.Sequential(nn.Linear(5, 40), nn.ReLU(inplace=True)).eval()
    assert inference_memory(net, torch.zeros(1, 5)) == FLOAT * (5 * 40 + 40 + 40)


def test_a_residual_connection_keeps_its_input_alive():
    """The sum is made while the input of the block and the block's own result are alive: three rows of 40."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 40), nn.Linear(40, 40)

        def forward(self, x):
            x = self.first(x)
            return x + self.second(F.relu(x))

    weights = 5 * 40 + 40 + 40 * 40 + 40
    assert inference_memory(Residual().eval(), torch.zeros(1, 5)) == FLOAT * (weights + 3 * 40)


def test_weights_that_two_layers_share_are_held_once():
    layer = nn.Linear(8, 8, bias=False)
    assert inference_memory(nn.Sequential(layer, layer), torch.zeros(1, 8)) == FLOAT * (64 + 2 * 8)


def test_memory_does_not_depend_on_gradients_being_wanted_and_is_the_same_again():
    """Three rows of 8 at a time: a block's input, which its caller holds, and the results of its two layers."""
    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4)))
    image = torch.zeros(1, 8, requires_grad=True)
    with torch.no_grad():
        expected = inference_memory(net, image)
    assert expected == inference_memory(net, image) == FLOAT * (4 * 72 + 3 * 8)


@pytest.fixture(scope="module")
def rows():
    model = build_model(ModelConfig(name="resnet18", width=4), (1, 8, 8), 10, seed=0)
    return model, CostProbe(model, list(model.names)).measure_all([])


def test_every_depth_has_every_cost_once_and_on_no_split(rows):
    model, found = rows
    assert list(found) == list(model.names)
    for measurements in found.values():
        assert [row.metric for row in measurements] == ["parameters", "flops", "memory_bytes", "latency_seconds"]
        assert {row.split for row in measurements} == {"none"}
        latency = measurements[-1]
        assert latency.low <= latency.value <= latency.high


def test_memory_holds_at_least_the_weights_and_more_of_them_at_every_depth(rows):
    values = [{row.metric: row.value for row in measurements} for measurements in rows[1].values()]
    assert all(cost["memory_bytes"] > FLOAT * cost["parameters"] for cost in values)
    memory = [cost["memory_bytes"] for cost in values]
    assert memory == sorted(memory)
