"""Looks keep within their share of the training's time, by fewer images or fewer looks."""

import math

import pytest

from lwexplain.monitoring import budget as module
from lwexplain.monitoring.budget import Budget


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)
    return clock


def train_for(budget, clock, seconds, look=0.0):
    """An epoch of so many seconds, then a look where one is allowed; whether one was."""
    budget.start()
    clock.now += seconds
    budget.pause()
    if not budget.allows(100):
        return False
    clock.now += look
    budget.looked()
    return True


def test_the_share_is_kept_in_the_long_run_whatever_a_look_costs(clock):
    for look in (0.1, 0.6, 3.0):
        budget = Budget(0.05)
        budget.expect(10, look, 100, look)
        taken = [train_for(budget, clock, 10.0, look) for _ in range(60)]
        assert any(taken)
        assert budget.overhead <= 0.05
        assert budget.training_seconds == pytest.approx(600)
        assert sum(taken) == min(60, int(0.05 * 600 / look))


def test_the_first_epoch_settles_how_many_images_fit(clock):
    budget = Budget(0.05)
    budget.expect(100, 0.2, 200, 0.3)  # 0.1 s, and 0.001 s an image
    train_for(budget, clock, 10.0)
    assert budget.images_that_fit(100, 1000, every=1) == pytest.approx(300, abs=1)  # 0.8 of 0.5 s
    assert budget.images_that_fit(100, 1000, every=2) == pytest.approx(700, abs=1)
    assert budget.images_that_fit(400, 1000, every=1) == 400
    assert budget.images_that_fit(100, 150, every=1) == 150


def test_looks_that_all_take_equally_long_see_all_images_or_the_fewest(clock):
    budget = Budget(0.05)
    budget.expect(50, 0.3, 50, 0.3)
    train_for(budget, clock, 10.0)
    assert budget.images_that_fit(100, 1000, every=1) == 1000
    budget.expect(50, 3.0, 50, 3.0)
    assert budget.images_that_fit(100, 1000, every=1) == 100


def test_without_a_share_every_look_is_allowed(clock):
    budget = Budget(None)
    assert math.isnan(budget.overhead)
    assert all(train_for(budget, clock, 1.0, 9.0) for _ in range(3))
    assert budget.overhead == 9.0
    assert budget.images_that_fit(100, 1000, every=1) == 1000
