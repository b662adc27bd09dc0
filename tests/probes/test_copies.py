"""Copies are found however large, shifted or many the samples are, and nothing else is taken for one."""

import time

import numpy as np
import pytest

from lwexplain.probes.copies import Copies, copies_among


def drawn(n, dims, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dims))


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-6, 1e30])
@pytest.mark.parametrize("dims", [2, 64])
def test_copies_that_float32_rounds_otherwise_are_found(dims, scale, offset):
    x, rng = drawn(500, dims), np.random.default_rng(1)
    source = rng.integers(0, 500, 100)
    again = x[source] + offset
    again *= 1 + 1e-7 * rng.normal(size=again.shape)
    everything = (scale * np.concatenate([x + offset, again])).astype(np.float32)
    found = copies_among(everything)
    assert found.first.tolist() == [*range(500), *source]
    assert found.extra == 100


def test_triples_and_copies_of_another_array_count_through():
    x = drawn(50, 3)
    found = copies_among(x, x[[7, 7, 3]])
    assert found.first.tolist() == [*range(50), 7, 7, 3]
    assert found.distinct().tolist() == list(range(50))


@pytest.mark.parametrize("at", [0, 7])
def test_one_huge_value_makes_no_copies_of_the_others(at):
    x = drawn(1000, 20)
    x[:, 3] = 0
    x[at, 3] = 1e30
    assert copies_among(x.astype(np.float32)).extra == 0


def test_neighbours_on_a_line_are_no_copies():
    x = np.linspace(0, 1, 2000)[:, None] * np.ones(4)
    assert copies_among(x.astype(np.float32)).extra == 0


def test_equal_samples_are_found_in_one_go():
    started = time.process_time()
    assert copies_among(np.full((20_000, 8), 3.7, dtype=np.float32)).extra == 19_999
    assert time.process_time() - started < 5


def test_few_samples():
    assert copies_among(np.zeros((1, 2))).extra == 0
    assert copies_among(np.zeros((2, 2))).extra == 1


def test_places_that_a_stage_has_collapsed_to_hold_no_copies():
    first = np.array([0, 0, 0, 3, 4, 4, 6, 7, 8, 9])
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
    found = Copies(first).without_collapse(labels)
    assert found.first.tolist() == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9]  # all of class 0 are at one place
    many = Copies(np.where(np.arange(200) < 11, 0, np.arange(200))).without_collapse(np.arange(200) % 2)
    assert many.extra == 0  # more than a twentieth


def test_of_copies_one_of_each_label_is_kept():
    found = Copies(np.array([0, 0, 0, 3, 3]))
    assert found.distinct(np.array([1, 2, 1, 5, 5])).tolist() == [0, 1, 3]
