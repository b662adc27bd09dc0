"""Latencies: a busy machine does not move them, two measurements agree, and no digit is shown that noise decides."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from lwexplain.models.cost import Cost
from lwexplain.models.latency import Latency, measure_latencies, quicker_half
from lwexplain.probes.cost import cost_measurements

CPU = torch.device("cpu")


def waiting(seconds):
    """Work that takes so long whatever else the machine does."""

    def run():
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    return run


def test_latencies_are_those_of_work_of_known_length():
    one, two = measure_latencies([waiting(1e-3), waiting(2e-3)], CPU)
    assert one.median == pytest.approx(1e-3, rel=0.2)
    assert two.median == pytest.approx(2e-3, rel=0.2)
    assert not one.is_alike(two)
    assert one.low <= one.median <= one.high


def test_time_in_which_others_have_the_core_does_not_count():
    def run():
        time.sleep(3e-3)  # as if another process were running
        waiting(1e-3)()

    assert measure_latencies([run], CPU)[0].median == pytest.approx(1e-3, rel=0.2)


def test_rounds_in_a_busy_moment_do_not_count():
    generator = np.random.default_rng(0)
    rounds = np.array([1e-3, 2e-3]) * (1 + 0.01 * generator.random((40, 2)))
    rounds[generator.permutation(40)[:18]] *= 3
    kept = quicker_half(rounds)
    assert kept.shape == (20, 2)
    np.testing.assert_allclose(np.median(kept, axis=0), [1e-3, 2e-3], rtol=0.02)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_half_of_the_rounds_is_at_least_one(count):
    assert len(quicker_half(np.ones((count, 3)))) == (count + 1) // 2


def test_the_interval_of_the_median_holds_it_in_95_of_100_samples():
    generator = np.random.default_rng(1)
    found = [Latency.of(generator.exponential(1.0, 100)) for _ in range(2000)]
    inside = [abs(latency.median - np.log(2)) <= latency.noise for latency in found]
    assert 0.92 <= np.mean(inside) <= 0.99


def test_all_is_measured_in_one_thread_and_the_number_of_threads_is_put_back():
    seen, before = set(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        measure_latencies([lambda: seen.add(torch.get_num_threads())], CPU)
        assert (seen, torch.get_num_threads()) == ({1}, 3)
        with pytest.raises(ZeroDivisionError):
            measure_latencies([lambda: 1 / 0], CPU)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_no_network_always_runs_after_the_same_one():
    order = []
    measure_latencies([lambda name=name: order.append(name) for name in "abc"], CPU)
    pairs = set(pairwise(order))
    assert {("a", "b"), ("b", "a")} <= pairs


def cost(median, noise):
    return Cost(1, 1, 1, Latency(median, median, median, noise, 50))


@pytest.mark.parametrize(
    ("shallower", "deeper", "said"),
    [
        (1.02e-3, 1e-3, "as far as the clock can tell"),
        (2e-3, 1e-3, "whose head works on larger features"),
        (1e-3, 2e-3, ""),
    ],
)
def test_a_deeper_network_that_is_quicker_is_explained(shallower, deeper, said):
    note = cost_measurements(cost(deeper, 2e-5), "cpu", cost(shallower, 2e-5))[-1].note
    assert said in note
    assert said or "one stage before" not in note
    assert "one thread" in note
