"""The signs of neural collapse equal their definitions, and vanish where collapse is complete."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lwexplain.errors import ProbeError
from lwexplain.probes import collapse, splits
from lwexplain.probes.base import PROBES, StageData
from lwexplain.probes.collapse import NeuralCollapse
from lwexplain.probes.linear.probe import fit_linear_probe


def values(stage, split="train"):
    return {row.metric: row.value for row in NeuralCollapse().measure(stage) if row.split == split}


def direct(x, y, weight):
    """The definitions, term by term in float64."""
    x, k = x.astype(np.float64), len(np.unique(y))
    mu = np.stack([x[y == c].mean(0) for c in range(k)])
    m = mu - mu.mean(0)
    sw = sum(np.outer(row - mu[c], row - mu[c]) for row, c in zip(x, y, strict=True)) / len(x)
    sb = sum(np.outer(row, row) for row in m) / k
    cosines = [m[a] @ m[b] / np.linalg.norm(m[a]) / np.linalg.norm(m[b]) for a in range(k) for b in range(a)]
    norms = np.linalg.norm(m, axis=1)
    gram, simplex = m @ m.T, (np.eye(k) - 1 / k) / math.sqrt(k - 1)
    return {
        "nc1": np.trace(sw @ np.linalg.pinv(sb, rcond=1e-10)) / k,
        "nc2": np.linalg.norm(gram / np.linalg.norm(gram) - simplex),
        "nc2_equinorm": norms.std() / norms.mean(),
        "nc2_equiangularity": np.std(cosines),
        "nc2_maximal_angle": np.mean(np.abs(np.array(cosines) + 1 / (k - 1))),
        "nc3": np.linalg.norm(weight / np.linalg.norm(weight) - m / np.linalg.norm(m)) ** 2,
    }


def simplex_stage(spread=0.0, per_class=12):
    """Four classes at the corners of a simplex, samples at their mean but for ``spread``, and a head like it."""
    corners = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0][:4] * 3
    labels = np.repeat(np.arange(4), per_class)
    features = corners[labels] + 5 + spread * np.random.default_rng(1).normal(size=(len(labels), 6))
    head = nn.Linear(6, 4).double()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(corners - corners.mean(0)))
        head.bias.copy_(-head.weight @ torch.from_numpy(features.mean(0)))
        logits = head(torch.from_numpy(features)).numpy()
    both = {"train": features, "val": features}
    both_logits = {"train": logits, "val": logits}
    return StageData("s", 1, both, {"train": labels, "val": labels}, list("abcd"), logits=both_logits, head=head)


@pytest.mark.parametrize(("classes", "dims"), [(4, 6), (5, 2), (2, 3)])
def test_every_sign_equals_its_definition(make_stage, classes, dims):
    stage = make_stage(seed=7, classes=classes, dims=dims)
    weight = fit_linear_probe(stage).weight.numpy()
    for split in ("train", "val"):
        expected = direct(stage.features[split], stage.labels[split], weight)
        found = values(stage, split)
        for metric, value in expected.items():
            assert found[metric] == pytest.approx(value, rel=1e-6, abs=1e-9), metric


def test_nc4_counts_the_samples_on_which_head_and_nearest_mean_differ(make_stage):
    logits = {
        s: np.random.default_rng(2).normal(size=(n, 3)).astype(np.float32) for s, n in (("train", 87), ("val", 87))
    }
    stage = make_stage(logits=logits)
    x, y = stage.features["train"].astype(np.float64), stage.labels["train"]
    means = np.stack([x[y == c].mean(0) for c in range(3)])
    for split in ("train", "val"):
        distances = np.linalg.norm(stage.features[split][:, None] - means, axis=2)
        expected = np.mean(distances.argmin(1) != logits[split].argmax(1))
        row = next(r for r in NeuralCollapse().measure(stage) if r.metric == "nc4" and r.split == split)
        assert row.value == expected
        assert (row.low is None) if split == "train" else (row.low < row.value < row.high)
        assert row.n == 87
        assert "the stage's head" in row.note


def test_without_logits_nc4_asks_the_linear_probe(make_stage):
    stage = make_stage(spread=0.1)
    row = next(r for r in NeuralCollapse().measure(stage) if r.metric == "nc4")
    assert row.value == 0
    assert "linear probe" in row.note


def test_a_collapsed_simplex_has_all_signs_zero():
    found = values(simplex_stage())
    assert list(found) == ["nc1", "nc2", "nc2_equinorm", "nc2_equiangularity", "nc2_maximal_angle", "nc3", "nc4"]
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-9)


def test_nc1_grows_with_the_square_of_the_spread_inside_classes():
    narrow, wide = (values(simplex_stage(spread, 5000))["nc1"] for spread in (0.01, 0.1))
    assert wide / narrow == pytest.approx(100, rel=0.02)
    # S_W = spread^2 I, S_B = (9 / 4) I in 3 dimensions: tr(S_W pinv(S_B)) / K
    assert wide == pytest.approx(0.01 / (9 / 4) * 3 / 4, rel=0.05)


def test_a_linear_head_on_the_features_is_the_classifier_of_nc3(make_stage):
    head = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    stage = make_stage(head=head)
    with torch.no_grad():
        stage.logits = {s: head(torch.from_numpy(stage.features[s])).numpy() for s in ("train", "val")}
    row = next(r for r in NeuralCollapse().measure(stage) if r.metric == "nc3")
    weight = head[1].weight.detach().double().numpy()
    assert row.value == pytest.approx(direct(stage.features["train"], stage.labels["train"], weight)["nc3"], rel=1e-6)
    assert "the stage's head" in row.note


def test_a_head_that_is_not_linear_on_the_features_is_not(make_stage):
    head = nn.Sequential(nn.ReLU(), nn.Linear(5, 3))
    stage = make_stage(head=head)
    with torch.no_grad():
        stage.logits = {s: head(torch.from_numpy(stage.features[s])).numpy() for s in ("train", "val")}
    row = next(r for r in NeuralCollapse().measure(stage) if r.metric == "nc3")
    assert "linear probe" in row.note


def test_which_signs_carry_an_interval(make_stage):
    rows = NeuralCollapse().measure(make_stage())
    assert all(row.n == 87 for row in rows)
    assert [(row.metric, row.split) for row in rows if row.low is not None] == [
        ("nc1", "train"),
        ("nc1", "val"),
        ("nc4", "val"),
    ]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), block=st.integers(1, 400))
def test_order_and_block_size_do_not_matter(seed, block):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(4), [9, 20, 31, 5]))
    features = (rng.normal(size=(4, 6))[labels] + rng.normal(size=(65, 6))).astype(np.float32)
    order = rng.permutation(65)

    def stage_of(x, y):
        return StageData("s", 1, {"train": x, "val": x}, {"train": y, "val": y}, list("abcd"))

    def signs(rows):
        found = values(stage_of(features[rows], labels[rows]))
        del found["nc3"], found["nc4"]  # those of the probe, which is fitted once: its digits depend on the order
        return found

    probe = fit_linear_probe(stage_of(features, labels))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "fit_linear_probe", lambda stage: probe)
        expected = signs(np.arange(65))
        patch.setattr(splits, "BLOCK_BYTES", block)
        assert signs(order) == pytest.approx(expected, rel=1e-9)


def test_coinciding_means_have_no_collapse_to_measure():
    labels = np.repeat(np.arange(40) % 2, 2)
    features = np.tile(np.array([[1.1], [-0.9]], dtype=np.float32), (40, 3))  # the same two samples in each class
    both = {"train": features, "val": features}
    rows = NeuralCollapse().measure(StageData("s", 1, both, {"train": labels, "val": labels}, ["a", "b"]))
    nc1 = next(r for r in rows if r.metric == "nc1")
    assert math.isinf(nc1.value)
    assert "coincide" in nc1.note
    nc2 = next(r for r in rows if r.metric == "nc2")
    assert math.isnan(nc2.value)
    assert "coincide" in nc2.note


def test_a_class_without_samples_is_left_out_and_noted(make_stage):
    stage = make_stage()
    stage.classes.append("unseen")
    rows = NeuralCollapse().measure(stage)
    assert all("unseen" in row.note for row in rows)
    assert all(math.isfinite(row.value) for row in rows)


def test_one_class_is_refused(make_stage):
    with pytest.raises(ProbeError, match="one class only"):
        NeuralCollapse().measure(make_stage(classes=1))


def test_the_probe_is_registered():
    assert isinstance(PROBES.create("collapse"), NeuralCollapse)
