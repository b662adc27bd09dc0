"""Blocks of distances equal SciPy's, whatever the block size; equal rows and features on a grid are exact."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from lwexplain.probes import distances
from lwexplain.probes.distances import pair_blocks, squared_distance_blocks


@pytest.fixture(params=[8, 900, 2**22], autouse=True)
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_BYTES", request.param)


def test_blocks_equal_the_distances_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(31, 4)) + 1e3, rng.normal(size=(17, 4)) + 1e3
    to_others = torch.cat([d2 for _, d2 in squared_distance_blocks(torch.from_numpy(x), torch.from_numpy(y))])
    np.testing.assert_allclose(to_others, cdist(x, y) ** 2, rtol=1e-9)
    among = torch.cat([d2 for _, d2 in squared_distance_blocks(torch.from_numpy(x))])
    np.testing.assert_allclose(among, cdist(x, x) ** 2, rtol=1e-9, atol=1e-12)
    assert (among.diagonal() == 0).all()


def test_pair_blocks_hold_each_pair_once():
    x = np.random.default_rng(1).normal(size=(23, 3))
    whole = torch.zeros(23, 23, dtype=torch.float64)
    for rows, d2 in pair_blocks(torch.from_numpy(x)):
        whole[rows, rows.start :] += d2
    np.testing.assert_allclose(whole, np.triu(cdist(x, x) ** 2), rtol=1e-10, atol=1e-13)


def test_equal_rows_are_at_distance_zero():
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(20, 6)) * 1e5)
    x[7] = x[13]
    d2 = torch.cat([d2 for _, d2 in squared_distance_blocks(x)])
    assert d2[7, 13] == 0 == d2[13, 7]
    assert (d2 == 0).sum() == 22


@pytest.mark.parametrize("offset", [0, 1000])
def test_whole_numbers_have_distances_without_rounding(offset):
    x = np.random.default_rng(3).integers(0, 17, (40, 12)) + offset
    exact = ((x[:, None] - x[None]) ** 2).sum(-1)
    d2 = torch.cat([d2 for _, d2 in squared_distance_blocks(torch.from_numpy(x.astype(np.float64)))])
    np.testing.assert_array_equal(d2, exact)
