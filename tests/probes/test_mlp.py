"""The MLP probe reads what no linear map can, loses nothing to one where one suffices, and is the same every time."""

import numpy as np
import pytest
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.linear.probe import fit_linear_probe
from lwexplain.probes.mlp import MLP


def by_split(stage, **options):
    return {row.split: row for row in MLP(**options).measure(stage)}


def rings(make_stage, **fields):
    """Two classes, one around the other: no linear map tells them apart."""
    rng = np.random.default_rng(0)
    features, labels = {}, {}
    for split, n in (("train", 900), ("val", 200), ("test", 200)):
        labels[split] = np.sort(rng.integers(0, 2, n))  # sorted, as folders of images are
        angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + labels[split] + 0.2 * rng.normal(size=n)
        features[split] = np.c_[radius * np.cos(angle), radius * np.sin(angle), rng.normal(size=(n, 3))].astype("f")
    return make_stage(classes=2, features=features, labels=labels, **fields)


def test_rows_and_their_note(make_stage):
    stage = make_stage(spread=1.5)
    rows = by_split(stage)
    assert list(rows) == ["train", "val", "test"]
    for split, row in rows.items():
        assert (row.metric, row.n, row.class_) == ("mlp_probe_accuracy", len(stage.labels[split]), None)
        assert row.low <= row.value <= row.high
        assert row.note.startswith("width 256, epoch ")
    del stage.features["test"]
    assert list(by_split(stage)) == ["train", "val"]


def test_rings_are_told_apart(make_stage):
    stage = rings(make_stage)
    assert max(fit_linear_probe(stage).accuracies.values()) < 0.7
    assert by_split(stage)["test"].value > 0.9


@pytest.mark.parametrize(("dims", "size"), [(2, 40), (30, 100), (300, 60)])
def test_what_a_linear_probe_tells_apart_it_does_too(make_stage, dims, size):
    counts = dict.fromkeys(("train", "val", "test"), (size, 2 * size, size, size // 2))
    stage = make_stage(classes=4, dims=dims, spread=0.5, sizes=counts)
    scales = np.logspace(-2, 2, dims).astype("f")
    stage.features = {split: x * scales + 100 for split, x in stage.features.items()}
    linear = fit_linear_probe(stage).logits(stage.features["test"]).argmax(1)
    assert by_split(stage)["test"].value >= np.mean(linear == stage.labels["test"]) - 0.02


def test_the_same_seed_gives_the_same_and_leaves_torchs_own_numbers_alone(make_stage):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again = (by_split(make_stage(spread=3.0, seed=1)) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)


def test_the_choice_does_not_see_test(make_stage):
    one, other = make_stage(spread=3.0), make_stage(spread=3.0)
    other.labels["test"] = other.labels["test"][::-1].copy()
    first, second = by_split(one), by_split(other)
    assert (first["train"], first["val"]) == (second["train"], second["val"])
    assert first["test"].note == second["test"].note


def test_features_that_do_not_fit_are_read_in_runs_and_it_is_said(make_stage, tmp_path):
    stage = rings(make_stage, memory_bytes=2**14)
    np.save(tmp_path / "x.npy", stage.features["train"])
    stage.features["train"] = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = by_split(stage)
    assert rows["test"].note.endswith("batches drawn from runs of 64 samples")
    assert rows["test"].value > 0.9


def test_constant_features_are_no_obstacle(make_stage):
    stage = make_stage(dims=4)
    stage.features = {split: np.c_[x, np.full((len(x), 2), 7.3, "f")] for split, x in stage.features.items()}
    assert by_split(stage)["val"].value > 0.9


def test_unusable_data_is_refused(make_stage):
    stage = make_stage()
    stage.features["val"] = stage.features["val"][:, :2]
    with pytest.raises(ProbeError, match="train has 5 features, val 2"):
        MLP().measure(stage)
    with pytest.raises(ProbeError, match="the width is 0"):
        MLP(width=0)


def test_few_samples_get_as_many_steps_as_many_do(make_stage):
    """Exclusive or of the signs of two of ten features, as well as scikit-learn reads it with its own settings."""
    features, labels = {}, {}
    for seed, (split, n) in enumerate((("train", 300), ("val", 300), ("test", 1000))):
        x = np.random.default_rng(seed).normal(size=(n, 10)).astype("f")
        features[split], labels[split] = x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(np.int64)
    row = by_split(make_stage(classes=2, features=features, labels=labels))["test"]
    assert row.value > 0.82
    assert "of 200 on" in row.note  # 400 steps
