"""Streamed class moments equal those computed at once, also with a group taken out and over several processes."""

import numpy as np
import pytest
import torch

from lwexplain.probes import splits
from lwexplain.probes.jackknife import GROUPS, jackknife_groups
from lwexplain.probes.moments import compute_moments, moments_of


def direct(x, y):
    classes = np.unique(y)
    means = np.stack([x[y == k].mean(0) for k in classes])
    within = sum((x[y == k] - m).T @ (x[y == k] - m) for k, m in zip(classes, means, strict=True))
    return classes, means, within


@pytest.mark.parametrize("block_bytes", [64, 10**6])
def test_moments_equal_those_of_all_samples_at_once(make_stage, monkeypatch, block_bytes):
    monkeypatch.setattr(splits, "BLOCK_BYTES", block_bytes)
    stage = make_stage(seed=3, classes=4, dims=6)
    x, y = stage.features["val"].astype(np.float64) + 1e4, stage.labels["val"]
    stage.features["val"] = x
    whole = moments_of(stage, "val").whole
    classes, means, within = direct(x, y)
    assert whole.classes.tolist() == classes.tolist()
    np.testing.assert_allclose(whole.means, means, rtol=1e-12)
    np.testing.assert_allclose(whole.within, within, rtol=1e-9, atol=1e-9)
    centred = x - x.mean(0)
    np.testing.assert_allclose(whole.total, centred.T @ centred, rtol=1e-9, atol=1e-6)


def test_taking_a_group_out_equals_leaving_its_samples_out(make_stage):
    stage = make_stage(seed=1, sizes={"val": (31, 12, 1)})
    y = stage.labels["val"]
    groups = jackknife_groups(y, GROUPS)
    parts = list(moments_of(stage, "val").all_but_one())
    assert len(parts) == GROUPS
    for number, part in enumerate(parts):
        kept = groups != number
        classes, means, within = direct(stage.features["val"][kept].astype(np.float64), y[kept])
        assert part.classes.tolist() == classes.tolist()
        np.testing.assert_allclose(part.means, means, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(part.within, within, rtol=1e-9, atol=1e-10)


def test_two_processes_add_up_to_one(make_stage):
    """Run in turn: a first round collects what each would send, later rounds hand out the sums."""
    stage = make_stage(seed=5)
    n = len(stage.labels["val"])
    halves = (slice(0, n // 3), slice(n // 3, n))
    sums = []
    for step in range(3):
        sent = []
        for rows in halves:
            calls = []

            def reduce(part, calls=calls):
                calls.append(part.clone())
                return sums[len(calls) - 1] if len(calls) <= len(sums) else part

            compute_moments(stage, "val", rows=rows, reduce=reduce)
            sent.append(calls)
        sums.append(sent[0][step] + sent[1][step])
    calls = iter(sums)
    together = compute_moments(stage, "val", rows=halves[0], reduce=lambda _: next(calls))
    alone = moments_of(stage, "val")
    torch.testing.assert_close(together.whole.within, alone.whole.within, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.group_scatter, alone.group_scatter, rtol=1e-12, atol=1e-12)


def test_too_many_features_for_the_memory_are_noted(make_stage):
    moments = moments_of(make_stage(dims=20, memory_bytes=1000), "val")
    assert "too many for the jackknife" in moments.note
    assert not list(moments.all_but_one())
