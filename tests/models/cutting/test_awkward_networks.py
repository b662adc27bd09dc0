"""Networks that are hard to cut: each prefix gives what a hook sees in the untouched network, by whichever way."""

import threading

import pytest
import torch
from module_state import random_states, state_of
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from lwexplain.exporting.formats import open_network, write_network
from lwexplain.exporting.parity import parity, require_parity
from lwexplain.exporting.shorter_network import portable
from lwexplain.models.cost import network_of_depth
from lwexplain.models.cutting import cut_network
from lwexplain.models.modules import first_tensor, undisturbed

SIDE = 16


class Small(nn.Module):
    """Two convolutions with one ReLU after each, and a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.unused, self.fc = nn.ReLU(), nn.Linear(3, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.relu(self.b(self.relu(self.a(x)))).mean((2, 3)))


def small_with(forward):
    return type("Small", (Small,), {"forward": forward})()


def brighter_where_bright(self, x):
    x = self.a(x)
    x = x * 2 if x.mean() > 0 else x
    return self.fc(self.b(x).mean((2, 3)))


def smaller_where_large(self, x):
    x = self.a(x)
    x = F.max_pool2d(x, 2) if x.shape[-1] > SIDE // 2 else x
    return self.fc(self.b(x).mean((2, 3)))


def other_for_few(self, x):
    x = self.a(x)
    x = x.relu() if len(x) < 2 else x.abs()
    return self.fc(self.b(x).mean((2, 3)))


def changed_after_use(self, x):
    first = self.a(x)
    second = self.b(first)
    first.add_(1)
    return self.fc((first + second).mean((2, 3)))


def with_things_that_have_no_copy():
    model = Small()
    model.lock, model.more = threading.Lock(), {"locks": [threading.Lock()]}
    return model


def parametrized():
    model = Small()
    spectral_norm(model.a)
    return model


def nested():
    inner = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    first = nn.Sequential(nn.Conv2d(3, 8, 3), inner, nn.Dropout(0.5))
    return nn.Sequential(first, nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()), nn.Flatten(), nn.Linear(1152, 5))


def hooked():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 5))
    model.register_forward_pre_hook(lambda _, given: (given[0] * 2,))
    return model


def shared_layers():
    conv, relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
    return nn.Sequential(conv, relu, conv, relu, nn.Flatten(), nn.Linear(768, 5))


class Mapping(nn.Module):
    """Its stage gives a mapping, of which ``out`` are the features."""

    def __init__(self):
        super().__init__()
        self.body, self.fc = small_with(lambda self, x: {"out": self.a(x), "size": x.shape[-1]}), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.body(x)["out"].mean((2, 3)))


class Encoder(nn.Module):
    """A transformer of torch, whose fused kernel hides its layers from a trace."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.patches, self.encoder, self.fc = nn.Conv2d(3, 8, 4, 4), nn.TransformerEncoder(layer, 2), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


NETWORKS = {
    "branches by value": (lambda: small_with(brighter_where_bright), ["a", "b"], "hook"),
    "branches by the size of images": (lambda: small_with(smaller_where_large), ["a", "b"], "graph"),
    "branches by the size of the batch": (lambda: small_with(other_for_few), ["a", "b"], "hook"),
    "a stage changed later": (lambda: small_with(changed_after_use), ["a", "b"], "graph"),
    "a module called twice": (Small, ["relu#1", "relu#2"], "graph"),
    "two of a module's three uses": (shared_layers, ["0#1", "1#2"], "graph"),
    "half precision": (lambda: Small().to(torch.bfloat16), ["a", "relu#2"], "graph"),
    "double precision": (lambda: Small().double(), ["a", "b"], "graph"),
    "keyword and mapping": (
        lambda: small_with(lambda self, *, pixel_values: {"logits": Small.forward(self, pixel_values)}),
        ["a", "b"],
        "graph",
    ),
    "placeholders and tuple": (
        lambda: small_with(lambda self, x, mask=None, labels=None: (Small.forward(self, x), x)),
        ["a", "b"],
        "graph",
    ),
    "compiled": (lambda: torch.compile(Small()), ["a", "b"], "graph"),
    "several devices' wrapper": (lambda: nn.DataParallel(Small()), ["a", "b"], "graph"),
    "a lock inside": (with_things_that_have_no_copy, ["a", "b"], "graph"),
    "parametrized weights": (parametrized, ["a", "b"], "graph"),
    "nested containers": (nested, ["0.0", "0.1.0", "0", "1.1", "3"], "containers"),
    "a container with a hook": (hooked, ["0", "1"], "graph"),
    "a stage that gives a mapping": (Mapping, ["body"], "graph"),
    "layers hidden by a fused kernel": (Encoder, ["encoder.layers.0", "encoder.layers.1"], "graph"),
}


def as_built(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def images(count):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(count))


def seen_by_hook(model, stage, x):
    """The output of a stage in the untouched network."""
    path, _, number = stage.partition("#")
    inside = getattr(model, "_orig_mod", getattr(model, "module", model))
    outputs = []
    handle = inside.get_submodule(path).register_forward_hook(
        lambda *call: outputs.append(first_tensor(call[2]).clone())
    )
    try:
        with torch.no_grad():
            _call(inside, x)
    finally:
        handle.remove()
    return outputs[int(number or 1) - 1]


def _call(model, x):
    x = x.to(next(model.parameters()).dtype)
    try:
        return model(x)
    except TypeError:
        return model(pixel_values=x)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_prefix_gives_what_a_hook_sees(name):
    build, stages, way = NETWORKS[name]
    model = as_built(build)
    cut = cut_network(model, stages, images(3), 5)
    assert (cut.way, cut.names) == (way, stages)
    for depth, stage in enumerate(stages, start=1):
        for count in (1, 2, 5):
            wanted = seen_by_hook(model, stage, images(count))
            with torch.no_grad():
                found = cut.prefix(depth)(images(count))
            if found.ndim == 3:
                assert found.shape[1:] == (SIDE, 8)  # tokens
            tolerance = {torch.bfloat16: 2e-2}.get(wanted.dtype, 1e-5) * float(wanted.abs().max())
            torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["branches by value", "a lock inside", "nested containers", "parametrized weights"])
def test_a_network_is_left_as_it_was_by_its_cut(name):
    build, stages, _ = NETWORKS[name]
    model = as_built(build).train()
    before = state_of(model), random_states()
    cut = cut_network(model, stages, images(3), 5)
    with torch.no_grad():
        cut.prefix(1)(images(2))
        cut.whole(images(2))
    assert (state_of(model), random_states()) == before


def test_a_network_that_branches_by_value_is_run_up_to_a_stage_and_says_why():
    cut = cut_network(as_built(lambda: small_with(brighter_where_bright)), ["a", "b"], images(3), 5)
    assert not cut.is_exportable
    assert list(cut.refusals) == ["own API", "containers", "graph"]
    assert "prune_intermediate_layers" in cut.refusals["own API"]
    assert "no nn.Sequential" in cut.refusals["containers"]
    assert "control flow" in cut.refusals["graph"]


def test_a_graph_that_cannot_be_made_prints_nothing(capfd):
    cut_network(as_built(lambda: small_with(brighter_where_bright)), ["a"], images(3), 5)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["branches by value", "a module called twice", "nested containers"])
def test_a_prefix_holds_the_parameters_that_its_output_depends_on(name):
    build, stages, _ = NETWORKS[name]
    model = as_built(build)
    cut = cut_network(model, stages, images(3), 5)
    for depth in range(1, cut.depth + 1):
        model.zero_grad()
        cut.prefix(depth)(images(2)).sum().backward()
        needed = {id(p) for p in model.parameters() if p.grad is not None}
        assert {id(p) for p in cut.prefix(depth).parameters()} == needed


@pytest.mark.parametrize("name", ["half precision", "a stage that gives a mapping", "a lock inside"])
def test_an_awkward_network_is_written_at_every_depth(tmp_path, name):
    build, stages, _ = NETWORKS[name]
    model = as_built(build)
    cut = cut_network(model, stages, images(3), 5)
    with undisturbed(model):
        shorter = [network_of_depth(cut, *place) for place in zip(cut.sites(), cut.feature_dtypes(), strict=True)]
    for network in map(portable, shorter):
        names = {"input_names": ["images"], "output_names": ["logits"], "metadata": {}}
        write_network(network, [images(2)], tmp_path / "net", "pt2", **names)
        written = open_network(tmp_path / "net", "pt2")
        require_parity(parity(lambda x, run=written: run(x)[0], network, images(7)), "net")
