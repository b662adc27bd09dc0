"""A network is cut by the first way that gives what hooks see in it."""

import pytest
import torch
from module_state import random_states, state_of
from nets_to_cut import NETWORKS, Choosing, Twice, images_of, seen_by_hooks
from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.cost import measure_costs, network_of_depth
from lwexplain.models.cutting import cut_network


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request):
    network, names, way = NETWORKS[request.param]()
    images = images_of(network)
    return network, names, way, images, cut_network(network, names, images, 5)


def test_each_way_serves_networks_that_earlier_ones_do_not(case):
    _, names, way, _, cut = case
    assert (cut.way, cut.names, cut.is_exportable) == (way, names, way != "hook")
    assert list(cut.refusals) == ["own API", "containers", "graph", "hook"][: len(cut.refusals)]
    assert all(reason and "\n" not in reason for reason in cut.refusals.values())


def test_prefixes_give_what_hooks_see(case):
    network, names, _, images, cut = case
    for batch in (images, images[:1], torch.cat([images, images.flip(-1)])):
        for depth, seen in enumerate(seen_by_hooks(network, names, batch), start=1):
            with torch.no_grad():
                found = cut.prefix(depth)(batch)
            channels_first = seen.permute(0, 3, 1, 2) if found.shape != seen.shape else seen
            torch.testing.assert_close(found, channels_first)
            assert cut.feature_shapes()[depth - 1] == tuple(found.shape[1:])
            assert cut.feature_dtypes()[depth - 1] == found.dtype


def test_prefixes_share_the_tensors_of_the_network_and_hold_only_what_they_use(case):
    network, _, _, _, cut = case
    own = {id(parameter) for parameter in network.parameters()}
    counts = []
    for depth in range(1, cut.depth + 1):
        assert {id(parameter) for parameter in cut.prefix(depth).parameters()} <= own
        counts.append(sum(parameter.numel() for parameter in cut.prefix(depth).parameters()))
        if cut.staged is not None:
            assert counts[-1] == sum(parameter.numel() for parameter in cut.staged.prefix(depth).parameters())
    assert counts == sorted(counts)


def test_the_rest_after_the_last_stage_gives_the_logits(case):
    *_, images, cut = case
    with torch.no_grad():
        logits = cut.whole(images)
        assert logits.shape == (len(images), 5)
        for depth in cut.head_depths:
            torch.testing.assert_close(cut.head(depth)(cut.prefix(depth)(images)), logits)


def test_every_depth_has_costs(case, monkeypatch):
    monkeypatch.setattr("lwexplain.models.latency.ROUNDS", (1, 1))
    cut = case[-1]
    pairs = zip(cut.sites(), cut.feature_dtypes(), strict=True)
    costs = measure_costs([network_of_depth(cut, site, dtype) for site, dtype in pairs], cut.input_shape)
    flops = [cost.flops for cost in costs]
    assert flops == sorted(flops)
    assert flops[0] > 0
    assert all(cost.memory_bytes > 4 * cost.parameters > 0 and cost.latency.median > 0 for cost in costs)
    assert not any(part._forward_hooks for depth in range(1, cut.depth + 1) for part in cut.prefix(depth).modules())


@pytest.mark.parametrize("kind", ["vit of timm", "transformer", "nested", "choosing", "twice"])
def test_the_network_is_left_as_it_was(kind):
    network, names, _ = NETWORKS[kind]()
    before = state_of(network), random_states()
    cut = cut_network(network, names, images_of(network), 5)
    cut.prefix(1)(images_of(network))
    assert (state_of(network), random_states()) == before


def test_parameters_that_a_prefix_does_not_use_are_not_in_it():
    network = Choosing()
    cut = cut_network(network, ["first", "second"], torch.rand(3, 3, 8, 8), 5)
    assert {name for name, _ in cut.prefix(1).named_parameters()} == {
        "network.network.first.weight",
        "network.network.first.bias",
    }
    assert (cut.way, cut.head_depths) == ("hook", [])


def test_a_way_that_failed_says_why():
    cut = cut_network(Choosing(), ["first"], torch.rand(3, 3, 8, 8), 5)
    assert cut.refusals["own API"] == "Choosing has no method prune_intermediate_layers or forward_features"
    assert cut.refusals["containers"] == "'first' stands in Choosing, which is no nn.Sequential"
    assert "control flow" in cut.refusals["graph"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_are_cast_to_what_the_network_computes_with(dtype):
    cut = cut_network(Twice().to(dtype), ["relu#1", "relu#2"], torch.rand(2, 3, 8, 8), 5)
    assert cut.prefix(1)(torch.rand(2, 3, 8, 8)).dtype == cut.feature_dtypes()[0] == dtype


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda network: torch.compile(network, backend="eager")])
def test_wrapped_networks_are_cut(wrap):
    network = wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    names = ["module.0", "module.1"] if isinstance(network, nn.DataParallel) else ["0", "1"]
    assert cut_network(network, names, torch.rand(2, 3, 8, 8), 5).prefix(2)(torch.rand(2, 3, 8, 8)).min() == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fourth"], "no stage 'fourth' in the model"),
        (["second", "first"], r"name them as \['first', 'second'\]"),
        (["relu"], "runs 2 times in a forward; name one of its calls, relu#1 to #2"),
        (["relu#3"], "runs only 2 times"),
        (["unused"], "was not called"),
    ],
)
def test_stages_that_cannot_be_cut_at_are_refused(names, message):
    with pytest.raises(ModelError, match=message):
        cut_network(Twice(), names, torch.rand(2, 3, 8, 8), 5)


def test_images_that_a_network_cannot_take_are_refused():
    with pytest.raises(ModelError, match=r"Twice cannot take images of shape \(1, 8, 8\)"):
        cut_network(Twice(), ["first"], torch.rand(2, 1, 8, 8), 5)
