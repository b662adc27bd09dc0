from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lwexplain.config import ModelConfig
from lwexplain.errors import ModelError
from lwexplain.models.activations import ActivationMeter
from lwexplain.models.balance import activation_bytes, balance_stages, partition, stage_costs
from lwexplain.models.build import build_model
from lwexplain.models.heads.base import HEADS
from lwexplain.models.staged import StagedModel, features_of

FAMILIES = [
    ("resnet18", "block", {}),
    ("resnet18", "layer", {}),
    ("resnet18", "group", {}),
    ("vgg11", "block", {}),
    ("cnn", "block", {}),
    ("torchvision", "block", {"arch": "resnet18"}),
    # cut before a ReLU that works in place
    ("torchvision", "block", {"arch": "resnet18", "stages": ["bn1", "layer1.0", "layer2.0"]}),
    ("torchvision", "block", {"arch": "mobilenet_v2"}),
]

BY = ["depth", "parameters", "activations"]


def build(name="resnet18", units="block", options=None, *, width=None, stages=None, balance="depth", size=32):
    width = None if name == "torchvision" else width or 4
    config = ModelConfig(name=name, width=width, units=units, options=options or {}, stages=stages, balance=balance)
    return build_model(config, (3, size, size), 5, seed=0)


def with_last_head(model):
    if model.depth not in model.head_depths:
        torch.manual_seed(1)
        model.set_head(model.depth, HEADS.create("linear", model.sites()[-1]))
    return model


def run_costs(costs, ends):
    return [sum(costs[start:end]) for start, end in pairwise([0, *ends])]


# ---------------------------------------------------------------------- the partition


@given(costs=st.lists(st.integers(0, 20), min_size=1, max_size=9), share=st.floats(0, 1))
def test_the_partition_is_the_best_of_all(costs, share):
    """Smallest largest cost, then smallest sum of squares, then the earliest ends."""
    count = 1 + round(share * (len(costs) - 1))
    every = [[*ends, len(costs)] for ends in combinations(range(1, len(costs)), count - 1)]

    def rank(ends):
        runs = run_costs(costs, ends)
        return max(runs), sum(run**2 for run in runs), ends

    assert partition(costs, count) == min(every, key=rank)


def test_earlier_runs_are_the_shorter_ones():
    assert partition([1] * 9, 4) == [2, 4, 6, 9]
    assert partition([1] * 5, 2) == [2, 5]


def test_the_runs_beside_the_costliest_are_even_too():
    """One stage of 10 sets the largest cost; without the sum of squares the six before could be cut as 1 and 5."""
    assert partition([1, 1, 1, 1, 1, 1, 10], 3) == [3, 6, 7]


def test_costs_beyond_the_precision_of_floats_are_told_apart():
    big = 2**60
    assert partition([big, 1, big], 2) == [1, 3]
    assert partition([big + 1, 1, big], 2) == [1, 3]
    assert partition([big, 1, big + 2], 2) == [2, 3]


# ---------------------------------------------------------------------- merged models


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize(("name", "units", "options"), FAMILIES)
def test_every_family_computes_the_same_logits_in_fewer_stages(name, units, options, by):
    whole = with_last_head(build(name, units, options)).eval()
    images = torch.randn(2, 3, 32, 32)
    for count in {1, 3, whole.depth}:
        merged = build(name, units, options, stages=count, balance=by).eval()
        assert merged.depth == count
        assert merged.own_tail == whole.own_tail
        if not merged.own_tail:
            merged.set_head(count, whole.head(whole.depth))
        assert torch.equal(merged(images), whole(images))
        for name_, shape in zip(merged.names, merged.feature_shapes(), strict=True):
            assert shape == whole.feature_shapes()[whole.depth_of(name_) - 1]


def test_a_merged_stage_is_a_sequence_of_its_members_under_the_name_of_the_last():
    whole = build()
    merged = balance_stages(whole, 4, "depth")
    assert merged.names == ["layer1.0", "layer2.0", "layer3.0", "layer4.1"]
    assert all(isinstance(stage, nn.Sequential) for stage in merged.body)
    assert [list(stage) for stage in merged.body] == [list(whole.body[a:b]) for a, b in pairwise([0, 2, 4, 6, 9])]


def test_a_stage_that_is_not_merged_stays_as_it_is():
    whole = build()
    kept = balance_stages(whole, whole.depth, "parameters")
    assert kept.names == whole.names
    assert list(kept.body) == list(whole.body)
    assert list(kept.state_dict()) == list(whole.state_dict())


def test_a_tuple_between_members_and_between_stages_is_handed_on():
    whole, merged = build(units="layer").eval(), build(units="layer", stages=2).eval()
    assert merged.names == ["layer2.1.conv1", "layer4.1.conv2"]
    images = torch.randn(2, 3, 32, 32)
    state = merged.run_stages(images, 0, 1)
    assert isinstance(state, tuple)
    assert torch.equal(features_of(state), features_of(whole.run_stages(images, 0, whole.depth_of("layer2.1.conv1"))))


def test_heads_where_a_merged_stage_ends_stay():
    whole = build()
    for site in whole.sites():
        whole.set_head(site.depth, HEADS.create("linear", site))
    merged = balance_stages(whole, 4, "depth")
    assert [merged.head(depth) for depth in merged.head_depths] == [whole.head(name) for name in merged.names]


def test_the_tail_of_a_wrapped_model_is_the_head_of_the_full_depth():
    merged = build("torchvision", options={"arch": "resnet18"}, stages=3)
    assert merged.own_tail
    assert merged.head_depths == [3]


def test_without_a_number_of_stages_nothing_is_merged():
    assert build(balance="activations").depth == 9


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_that_of_the_model(training):
    merged = balance_stages(build().train(training), 3, "activations")
    assert all(module.training == training for module in merged.modules())


# ---------------------------------------------------------------------- where ResNet-18 is cut


@pytest.mark.parametrize(
    ("by", "count", "names"),
    [
        ("depth", 2, ["layer2.0", "layer4.1"]),
        ("depth", 3, ["layer1.1", "layer3.0", "layer4.1"]),
        ("depth", 5, ["stem", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]),
        ("parameters", 2, ["layer4.0", "layer4.1"]),
        ("parameters", 3, ["layer3.1", "layer4.0", "layer4.1"]),
        ("parameters", 4, ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]),
        ("activations", 2, ["layer1.1", "layer4.1"]),
        ("activations", 4, ["layer1.0", "layer1.1", "layer2.1", "layer4.1"]),
    ],
)
def test_resnet18_at_full_width_is_cut_late_by_parameters_and_early_by_activations(by, count, names):
    assert build(width=64, stages=count, balance=by).names == names


def test_parameters_of_the_stages_of_resnet18():
    """A block of two 3x3 convolutions with batch norm, twice as many channels where a group starts."""

    def block(inputs, outputs):
        shortcut = inputs * outputs + 2 * outputs if inputs != outputs else 0
        return 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs + shortcut

    stem = 9 * 3 * 64 + 2 * 64
    blocks = [block(*pair) for a, b in pairwise([64, 64, 128, 256, 512]) for pair in ((a, b), (b, b))]
    assert stage_costs(build(width=64), "parameters") == [stem, *blocks]


def test_activations_of_the_stages_of_resnet18():
    """Of two images a convolution's and a ReLU's result each, and batch norm's means and deviations; float32."""

    def maps(count, channels, side):
        return count * 2 * channels * side**2 * 4

    norm = 2 * 64 * 4
    costs = stage_costs(build(width=64), "activations")
    assert costs[0] == maps(2, 64, 32) + norm
    assert costs[1] == costs[2] == maps(4, 64, 32) + 2 * norm
    assert costs[3] == maps(5, 128, 16) + 3 * 2 * norm  # its shortcut has a convolution, too
    assert costs[8] == maps(4, 512, 4) + 2 * 8 * norm


def test_activations_of_the_stages_add_up_to_those_of_the_network():
    model = build().train()
    with ActivationMeter() as meter:
        features = model.run_stages(torch.randn(2, 3, 32, 32), 0, model.depth)
    images = 2 * 3 * 32 * 32 * 4
    assert features.requires_grad
    assert sum(stage_costs(model, "activations")) == meter.live_bytes - images


# ---------------------------------------------------------------------- measuring changes nothing


@pytest.mark.parametrize(("name", "units", "options"), FAMILIES)
def test_measuring_leaves_the_model_and_the_random_state_as_they_were(name, units, options):
    model = build(name, units, options)
    model.body[0].eval()
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    buffers = dict(model.named_buffers())
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    activation_bytes(model)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    assert all(buffer is buffers[key] for key, buffer in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)


def test_measuring_gives_the_same_bytes_each_time_also_without_gradients():
    model = build("torchvision", options={"arch": "mobilenet_v2"})
    with torch.no_grad():
        first = activation_bytes(model)
    assert activation_bytes(model) == first


def test_features_of_one_pixel_can_be_measured():
    model = build("vgg11", size=16)
    assert model.feature_shapes()[-1][1:] == (1, 1)
    assert min(stage_costs(model, "activations")) > 0


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("count", [0, -1, 10])
@pytest.mark.parametrize("by", BY)
def test_a_number_of_stages_that_the_model_does_not_have_is_refused(count, by):
    with pytest.raises(ModelError, match=rf"model.stages={count}, but the model is cut into 9 stages; .* from 1 to 9"):
        build(stages=count, balance=by)


def test_an_unknown_balance_is_refused():
    with pytest.raises(ModelError, match=r"model.balance='flops' is unknown; known: depth, parameters, activations"):
        balance_stages(build(), 2, "flops")


def test_a_stage_that_cannot_take_the_images_is_named_and_the_modes_are_restored():
    model = StagedModel({"one": nn.Conv2d(3, 4, 3), "two": nn.Linear(7, 7)}, (3, 8, 8), 2).eval()
    with pytest.raises(ModelError, match=r"stage 'two' cannot train on images of shape \(3, 8, 8\)"):
        balance_stages(model, 1, "activations")
    assert not any(module.training for module in model.modules())
