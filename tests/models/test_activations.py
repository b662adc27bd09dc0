import threading
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lwexplain.models.activations import ActivationMeter

UNIT = 4 * 8 * 4
"""Bytes of a batch of 4 rows of 8 float32."""


def chain(layers=3, width=8):
    """Linear layers without bias, a ReLU after each."""
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(width, width, bias=False), nn.ReLU())))


def conv_net(blocks=4, channels=8):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, channels, 3, padding=1)]
    for _ in range(blocks):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def batch(size=4, side=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, side, side, generator=generator), torch.arange(size) % 10


def step(model, images, labels):
    F.cross_entropy(model(images), labels).backward()


def step_peak(model, images, labels):
    with ActivationMeter(model.parameters()) as meter:
        step(model, images, labels)
    return meter.peak_bytes


# ---------------------------------------------------------------------- values worked out by hand


def test_a_forward_pass_keeps_what_relu_saves_and_peaks_at_the_last_relu():
    """Each linear layer's result dies once its ReLU has run, whose result lives on as the next layer's saved input."""
    model, images = chain(), torch.randn(4, 8)
    with ActivationMeter(model.parameters()) as meter:
        features = model(images)
    assert features.shape == (4, 8)
    assert meter.live_bytes == 3 * UNIT
    assert meter.peak_bytes == 4 * UNIT  # and the last linear layer's result


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
            ],
        ),
    ],
)
def test_a_training_step_peaks_at_the_start_of_its_backward_pass(device):
    """Three saved ReLU results and the gradient of one of them; 4 bytes for the loss and 4 for the gradient of it."""
    model, images = chain().to(device), torch.randn(4, 8, device=device)
    with ActivationMeter(model.parameters()) as meter:
        model(images).sum().backward()
    assert meter.peak_bytes == 4 * UNIT + 8
    assert meter.live_bytes == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gradients_of_parameters_do_not_count_and_count_if_nobody_names_them():
    model = nn.Linear(1000, 1000, bias=False)
    images = torch.randn(1, 1000)
    with ActivationMeter(model.parameters()) as meter:
        model(images).sum().backward()
    assert meter.peak_bytes == 4 * 1000 + 4  # the result and its sum
    with ActivationMeter() as blind:
        model(images).sum().backward()
    assert blind.peak_bytes >= 4 * 1000 * 1000


def test_gradients_added_to_earlier_ones_do_not_count_either():
    model = chain()
    images = torch.randn(4, 8)
    peaks = []
    for _ in range(2):
        with ActivationMeter(model.parameters()) as meter:
            model(images).sum().backward()
        peaks.append(meter.peak_bytes)
    assert peaks[0] == peaks[1]


def test_frozen_parameters_may_be_among_the_named():
    model = chain().requires_grad_(False)
    model[4].requires_grad_(True)
    with ActivationMeter(model.parameters()) as meter:
        model(torch.zeros(4, 8)).sum().backward()
    assert meter.live_bytes == 0
    assert model[4].weight.grad is not None


def test_views_count_once_and_changes_in_place_not_at_all():
    with ActivationMeter() as meter:
        x = torch.zeros(4, 8)
        views = [x[1:], x.t(), x.reshape(2, 16), x.detach(), x.expand(3, 4, 8)]
        x.add_(1)
        x.relu_()
    assert len(views) == 5
    assert meter.live_bytes == meter.peak_bytes == UNIT


def test_views_of_what_existed_before_do_not_count():
    x = torch.zeros(4, 8)
    with ActivationMeter() as meter:
        y = x.reshape(2, 16)[1:].detach()
        x.add_(1)
    assert y.shape == (1, 16)
    assert meter.peak_bytes == 0


def test_a_storage_counts_until_its_last_view_dies():
    with ActivationMeter() as meter:
        x = torch.zeros(4, 8)
        view = x[1:]
        del x
        assert meter.live_bytes == UNIT
        del view
        assert meter.live_bytes == 0
    assert meter.peak_bytes == UNIT


def test_a_storage_that_grows_counts_at_its_new_size():
    with ActivationMeter() as meter:
        x = torch.empty(0)
        torch.add(torch.ones(4, 8), 1, out=x)
    assert meter.live_bytes == UNIT
    assert meter.peak_bytes == 2 * UNIT


# ---------------------------------------------------------------------- against another count


def test_a_forward_pass_peaks_at_what_autograd_saves_and_one_passing_result():
    """Of each block the convolution's and the ReLU's result are saved; batch norm's lives while the ReLU runs."""
    model, (images, _) = conv_net().train(), batch()
    ours = {tensor.untyped_storage().data_ptr() for tensor in (images, *model.parameters(), *model.buffers())}
    saved = {}

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in ours:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with ActivationMeter(model.parameters()) as meter, saved_tensors_hooks(note, lambda tensor: tensor):
        logits = model(images)
    one_result = 4 * 8 * 16 * 16 * 4
    assert meter.live_bytes == sum(saved.values()) + logits.untyped_storage().nbytes()
    assert sum(saved.values()) < meter.peak_bytes <= sum(saved.values()) + one_result


def test_a_backward_pass_adds_no_more_than_two_gradients_of_activations():
    model, (images, labels) = conv_net().train(), batch()
    with ActivationMeter(model.parameters()) as forward:
        model(images)
    peak = step_peak(model, images, labels)
    one_result = 4 * 8 * 16 * 16 * 4
    assert forward.peak_bytes <= peak <= forward.peak_bytes + 2 * one_result


# ---------------------------------------------------------------------- what changes the peak, and what does not


def test_twice_the_batch_is_twice_the_peak():
    model = conv_net()
    peaks = [step_peak(model, *batch(size)) for size in (8, 16, 32)]
    for less, more in pairwise(peaks):
        assert more / less == pytest.approx(2, rel=0.01)


def test_checkpoints_lower_the_peak_of_a_deep_chain():
    """16 layers: all 16 results against 4 at the checkpoints and those of the one segment that is run again."""
    model = chain(layers=16)
    images = torch.randn(64, 8)
    unit = 64 * 8 * 4
    with ActivationMeter(model.parameters()) as plain:
        model(images).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with ActivationMeter(model.parameters()) as meter:
        state = images
        for first in range(0, len(model), 8):
            state = checkpoint(model[first : first + 8], state, use_reentrant=False)
        state.sum().backward()
    assert plain.peak_bytes == 17 * unit + 8
    assert meter.peak_bytes <= 0.6 * plain.peak_bytes
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_backward_pass_for_each_stage_lowers_the_peak():
    """With the gradient cut between them, only one of eight stages holds activations at a time."""
    model = chain(layers=8)
    images = torch.randn(64, 8)
    unit = 64 * 8 * 4
    with ActivationMeter(model.parameters()) as whole:
        model(images).sum().backward()
    with ActivationMeter(model.parameters()) as local:
        state = images
        for first in range(0, len(model), 2):
            state = model[first : first + 2](state.detach())
            state.sum().backward()
    assert whole.peak_bytes == 9 * unit + 8
    assert local.peak_bytes < 4 * unit


def test_bf16_halves_what_is_saved():
    model, images = chain(layers=8), torch.randn(256, 8)
    with ActivationMeter(model.parameters()) as full:
        model(images).sum().backward()
    with ActivationMeter(model.parameters()) as half, torch.autocast("cpu", torch.bfloat16):
        model(images).sum().backward()
    assert 0.5 <= half.peak_bytes / full.peak_bytes < 0.7


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_the_same_bits_inside_and_outside(layout, precision, checkpoints):
    images, labels = batch()
    images = images.to(memory_format=layout)

    def gradients(meter=None):
        model = conv_net().to(memory_format=layout)
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            middle = model[:7](images)
            logits = checkpoint(model[7:], middle, use_reentrant=False) if checkpoints else model[7:](middle)
            F.cross_entropy(logits, labels).backward()
        return [parameter.grad for parameter in model.parameters()] + list(model.buffers())

    outside = gradients()
    with ActivationMeter() as meter:
        inside = gradients()
    assert meter.peak_bytes > 0
    for one, other in zip(outside, inside, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


class DeepBackward(torch.autograd.Function):
    """A backward pass inside a backward pass inside ...: beyond 60 of them autograd goes on in a thread of its own."""

    @staticmethod
    def forward(ctx, x, depth, innermost):
        ctx.depth, ctx.innermost = depth, innermost
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.depth == 0:
            ctx.innermost()
        else:
            with torch.enable_grad():
                x = torch.zeros(1, requires_grad=True)
                DeepBackward.apply(x, ctx.depth - 1, ctx.innermost).backward()
        return gradient, None, None


def test_a_backward_pass_in_a_thread_of_autograd_is_seen():
    """As on CUDA, where every backward pass runs in one."""
    threads = []

    def innermost():
        threads.append(threading.get_ident())
        torch.zeros(1000, 1000)

    with ActivationMeter() as meter:
        DeepBackward.apply(torch.zeros(1, requires_grad=True), 100, innermost).backward()
    assert threads != [threading.get_ident()]
    assert meter.peak_bytes > 4 * 1000 * 1000


# ---------------------------------------------------------------------- as a context


def test_flops_are_counted_beside_it_in_either_order():
    model, (images, labels) = conv_net(), batch()
    peak = step_peak(model, images, labels)
    with FlopCounterMode(display=False) as alone:
        step(model, images, labels)
    with ActivationMeter(model.parameters()) as meter, FlopCounterMode(display=False) as flops:
        step(model, images, labels)
    assert (meter.peak_bytes, flops.get_total_flops()) == (peak, alone.get_total_flops())
    with FlopCounterMode(display=False) as flops, ActivationMeter(model.parameters()) as meter:
        step(model, images, labels)
    assert (meter.peak_bytes, flops.get_total_flops()) == (peak, alone.get_total_flops())


def test_flops_are_those_of_torchs_own_counter():
    model, (images, labels) = conv_net(), batch()
    with FlopCounterMode(display=False) as expected:
        step(model, images, labels)
    with ActivationMeter(model.parameters()) as meter:
        step(model, images, labels)
    assert meter.flops == expected.get_total_flops() > 0


def test_nothing_counts_after_the_context():
    with ActivationMeter() as meter:
        x = torch.zeros(4, 8)
    y = torch.zeros(4000)
    assert (meter.peak_bytes, meter.live_bytes) == (UNIT, UNIT)
    del x, y
    assert (meter.peak_bytes, meter.live_bytes) == (UNIT, UNIT)


def test_an_error_inside_leaves_no_mode_and_no_hook_behind():
    model = chain()
    with pytest.raises(RuntimeError, match="shapes"), ActivationMeter(model.parameters()) as meter:
        nn.Sequential(model, nn.Linear(9, 8))(torch.zeros(4, 8))
    assert _get_current_dispatch_mode() is None
    peak = meter.peak_bytes
    assert peak > 0
    model(torch.zeros(400, 8)).sum().backward()
    assert meter.peak_bytes == peak
    for parameter in model.parameters():
        assert not parameter._backward_hooks
        assert not parameter._post_accumulate_grad_hooks


def test_entering_again_starts_a_new_count():
    meter = ActivationMeter()
    for size in (100, 4):
        with meter:
            x = torch.zeros(size, 8)
        assert meter.peak_bytes == x.untyped_storage().nbytes()
