"""A module is left as it was found, whatever happened to it."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from module_state import random_states, state_of
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lwexplain.errors import ModelError
from lwexplain.models.modules import in_evaluation, undisturbed


class Normalised(nn.Module):
    """Batch, instance and spectral norm, dropout, a cache that the forward makes, a complex buffer, shared weights."""

    def __init__(self):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(3, 4, 3))
        self.norms = nn.Sequential(nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.Dropout(0.5))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("phases", torch.ones(3, dtype=torch.complex64))
        self.cache = None
        self.scale = 1.0

    def forward(self, x):
        self.cache = torch.arange(4.0)
        self.scale = torch.tensor(2.0)
        self.extra = torch.zeros(1)
        self.phases = self.phases * 2
        return self.second(self.first(self.norms(self.conv(x)).mean((2, 3)))) + self.cache


def disturb(module):
    module.train()
    module(torch.rand(4, 3, 8, 8)).sum().backward()
    for part in module.modules():
        part.register_forward_hook(lambda *_: None)
        part.register_full_backward_hook(lambda *_: None)
        part.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
        part.train(not part.training)
    module.requires_grad_(False)
    module.double()
    random.random(), np.random.rand(), torch.rand(1)


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_before_also_after_an_exception(fails):
    model = Normalised()
    model(torch.rand(4, 3, 8, 8)).sum().backward()
    model.first.weight.requires_grad_(False)
    model.norms[2].eval()
    model.norms.register_forward_hook(lambda *_: None)
    before, states = state_of(model), random_states()
    with suppress(KeyError), undisturbed(model):
        assert all(parameter.grad is None for parameter in model.parameters())
        disturb(model)
        if fails:
            raise KeyError("inside")
    assert state_of(model) == before
    assert random_states() == states
    assert model.first.weight is model.second.weight


def test_a_graph_made_before_can_still_go_backward():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    loss = model(torch.rand(4, 3)).sum()
    with undisturbed(model):
        model(torch.rand(4, 3))
    loss.backward()
    assert model[1].weight.grad is not None


def test_a_hook_that_removed_itself_is_back():
    model = nn.Linear(2, 2)
    calls = []

    def once(*_):
        calls.append(1)
        handle.remove()

    handle = model.register_forward_hook(once)
    with undisturbed(model):
        model(torch.rand(1, 2))
    model(torch.rand(1, 2))
    assert len(calls) == 2
    assert not model._forward_hooks


def test_evaluation_mode_holds_inside_for_every_part_of_several_modules():
    model, head = Normalised(), nn.Dropout(0.9)
    model.train = None  # a model whose own train() must not be called
    model.norms[0].eval()
    before = state_of(model)
    with in_evaluation(model, head):
        assert not any(part.training for part in (*model.modules(), head))
        first, second = (head(model(torch.ones(2, 3, 8, 8))) for _ in range(2))
        assert torch.equal(first, second)
    assert state_of(model) == before
    assert head.training


def test_a_module_moved_inside_is_at_home_afterwards():
    model = Normalised()
    before = state_of(model)
    with in_evaluation(model, device="meta"):
        assert {p.device.type for p in (*model.parameters(), *model.buffers())} == {"meta"}
    assert state_of(model) == before


def test_a_module_that_lies_on_two_devices_is_not_moved():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].bias = nn.Parameter(torch.empty(2, device="meta"))
    with (
        pytest.raises(ModelError, match=r"Linear lies on several devices \['cpu', 'meta'\]"),
        in_evaluation(model, device="cpu"),
    ):
        pass
    assert model.training


def test_a_lazy_module_may_become_what_it_is_for():
    model = nn.Sequential(nn.LazyLinear(2))
    with undisturbed(model):
        model.eval()(torch.rand(1, 3))
    assert type(model[0]) is nn.Linear
    assert model[0].training


@pytest.mark.parametrize(
    "wrap", [torch.nn.DataParallel, lambda model: torch.compile(model, backend="eager"), torch.jit.script]
)
def test_a_wrapped_module_is_left_as_it_was(wrap):
    inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).eval()
    inner[2].train()
    wrapped = wrap(inner)
    modes = [part.training for part in wrapped.modules()]
    values = {name: value.clone() for name, value in wrapped.state_dict().items()}
    with undisturbed(wrapped):
        wrapped.train()
        wrapped(torch.rand(5, 3))
    assert [part.training for part in wrapped.modules()] == modes
    assert all(torch.equal(value, values[name]) for name, value in wrapped.state_dict().items())
