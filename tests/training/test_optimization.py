import pytest
import torch
from torch import nn

from lwexplain.config import OptimizerConfig, ScheduleConfig
from lwexplain.training.optimization import build_optimizer, learning_rate


def rates(**settings):
    schedule = ScheduleConfig(**settings)
    return [learning_rate(schedule, 1.0, step, 10, 4) for step in range(40)]


def test_cosine_equals_the_scheduler_of_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for rate in rates(name="cosine"):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


def test_step_falls_at_its_milestones():
    steps = rates(name="step", milestones=[0.5, 0.75], gamma=0.1)
    assert steps[0] == steps[19] == 1.0
    assert steps[20] == steps[29] == pytest.approx(0.1)
    assert steps[30] == pytest.approx(0.01)


def test_warm_up_rises_linearly_and_then_the_schedule_begins():
    steps = rates(name="constant", warmup_epochs=1)
    assert steps[:10] == pytest.approx([(k + 1) / 11 for k in range(10)])
    assert steps[10:] == [1.0] * 30


@pytest.mark.parametrize("name", ["constant", "cosine"])
def test_a_warm_up_lasts_at_most_half_of_the_epochs_so_that_the_rate_is_always_reached(name):
    assert rates(name=name, warmup_epochs=9) == rates(name=name, warmup_epochs=2)
    one_epoch = [learning_rate(ScheduleConfig(name=name, warmup_epochs=5), 1.0, step, 10, 1) for step in range(10)]
    assert one_epoch[:5] == pytest.approx([(step + 1) / 6 for step in range(5)])
    assert one_epoch[5] == max(one_epoch) == 1.0


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (1, 2), (3, 1)])
def test_the_shortest_trainings_have_a_positive_rate_in_every_step(steps, epochs):
    schedule = ScheduleConfig(name="cosine", warmup_epochs=9)
    assert all(0 < learning_rate(schedule, 1.0, step, steps, epochs) <= 1 for step in range(steps * epochs))


def test_biases_and_norm_weights_are_not_decayed():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = build_optimizer(model.parameters(), OptimizerConfig(weight_decay=0.1))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers_by_name(name, kind):
    assert isinstance(build_optimizer([nn.Parameter(torch.zeros(2, 2))], OptimizerConfig(name=name)), kind)


def test_sgd_without_momentum_is_plain():
    optimizer = build_optimizer([nn.Parameter(torch.zeros(2, 2))], OptimizerConfig(momentum=0.0))
    assert optimizer.param_groups[0]["nesterov"] is False
