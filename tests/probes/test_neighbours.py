"""Nearest neighbours and class means agree with scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neighbors import NearestNeighbors as ScikitLearns

from lwexplain.errors import ProbeError
from lwexplain.probes import distances, neighbours
from lwexplain.probes.neighbours import (
    NearestClassMean,
    NearestNeighbours,
    majority,
    nearest_labels,
    smallest,
)


def of_all(rows):
    return [row for row in rows if row.class_ is None]


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("block_bytes", [8 * 87 * 5, 2**22])
def test_accuracy_equals_scikit_learns(make_stage, monkeypatch, k, block_bytes):
    monkeypatch.setattr(distances, "BLOCK_BYTES", block_bytes)
    stage = make_stage(spread=3.0, seed=k)
    model = KNeighborsClassifier(k).fit(stage.features["train"].astype(float), stage.labels["train"])
    for row in NearestNeighbours(grid=[k]).measure(stage):
        x, y = stage.features[row.split].astype(float), stage.labels[row.split]
        own = np.ones(len(y), bool) if row.class_ is None else y == stage.classes.index(row.class_)
        share = model.predict_proba(x)
        clear = np.sort(share, axis=1)[:, -1] > np.sort(share, axis=1)[:, -2] + 1e-9
        votes = stage.labels["train"][model.kneighbors(x, return_distance=False)]
        tied = [max(v, key=lambda c, v=v: (np.sum(v == c), -list(v).index(c))) for v in votes]
        expected = np.where(clear, share.argmax(1), tied)
        assert row.value == pytest.approx(np.mean((expected == y)[own]))
        assert row.note.startswith(f"k={k}, chosen on val ({k}: ")
        assert row.n == own.sum()
        assert row.low <= row.value <= row.high


@pytest.mark.parametrize(("memory", "reference_rows"), [(2**29, 16384), (2**29, 40), (2**15, 70)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_neighbours_are_scikit_learns_in_blocks_of_any_size(make_stage, monkeypatch, memory, reference_rows, offset):
    monkeypatch.setattr(neighbours, "REFERENCE_ROWS", reference_rows)
    stage = make_stage(dims=9, spread=2.0, memory_bytes=memory, sizes=dict.fromkeys(("train", "val"), (70, 40, 90)))
    stage.features = {split: (x + np.float32(offset)) for split, x in stage.features.items()}
    train, val = (stage.features[split].astype(float) - offset for split in ("train", "val"))
    stage.labels["train"] = np.arange(200)  # so that a label names its sample
    stage.classes = [str(k) for k in range(200)]
    found = nearest_labels(stage, "val", 20)
    expected = ScikitLearns(n_neighbors=20, algorithm="brute").fit(train).kneighbors(val, return_distance=False)
    np.testing.assert_array_equal(found.numpy(), expected)


@given(st.integers(1, 8), st.integers(1, 300), st.integers(1, 60), st.integers(0, 2**31), st.booleans())
def test_the_smallest_are_those_of_a_full_sort(n, m, k, seed, whole):
    k = min(k, m)
    generator = torch.Generator().manual_seed(seed)
    d2 = torch.rand(n, m, generator=generator, dtype=torch.float64)
    if whole:  # many ties
        d2 = (d2 * 4).floor()
    values, columns = smallest(d2, k)
    assert torch.equal(values, d2.sort(1).values[:, :k])
    assert torch.equal(d2.gather(1, columns), values)
    assert all(len(set(row)) == k for row in columns.tolist())


def test_k_is_chosen_on_val(make_stage):
    stage = make_stage(spread=4.0, classes=2, sizes=dict.fromkeys(("train", "val", "test"), (80, 80)))
    single = {k: NearestNeighbours([k]).measure(stage)[0].value for k in (1, 5, 10, 20, 50)}
    chosen = of_all(NearestNeighbours().measure(stage))
    best = min(k for k in single if single[k] == max(single.values()))
    by_k = ", ".join(f"{k}: {value:.4f}" for k, value in single.items())
    assert [row.note for row in chosen] == [f"k={best}, chosen on val ({by_k})"] * 2
    assert [row.split for row in chosen] == ["val", "test"]


def test_a_tied_vote_goes_to_the_nearest():
    labels = torch.tensor([[2, 1, 1, 2], [0, 1, 2, 1], [3, 2, 1, 0]])
    assert majority(labels, 4).tolist() == [2, 1, 3]


def test_few_training_samples_limit_k(make_stage):
    stage = make_stage(sizes={"train": (2, 2, 2), "val": (5, 5, 5)})
    rows = of_all(NearestNeighbours().measure(stage))
    assert [row.split for row in rows] == ["val"]
    assert rows[0].note.startswith(("k=1,", "k=5,"))
    with pytest.raises(ProbeError, match="train has 6 samples, fewer than k = 7"):
        NearestNeighbours([7]).measure(stage)
    with pytest.raises(ProbeError, match="grid of k"):
        NearestNeighbours([0])


def test_nearest_class_mean_equals_scikit_learns(make_stage):
    stage = make_stage(spread=3.0, classes=4)
    model = NearestCentroid().fit(stage.features["train"].astype(float), stage.labels["train"])
    rows = NearestClassMean().measure(stage)
    assert [row.split for row in of_all(rows)] == ["val", "test"]
    for row in rows:
        x, y = stage.features[row.split].astype(float), stage.labels[row.split]
        own = np.ones(len(y), bool) if row.class_ is None else y == stage.classes.index(row.class_)
        assert row.value == pytest.approx(model.score(x[own], y[own]))
        assert row.n == own.sum()


def test_a_class_without_training_samples_is_never_predicted(make_stage):
    stage = make_stage(sizes={"train": (20, 0, 20), "val": (10, 10, 10)}, spread=0.1)
    assert [row.value for row in NearestClassMean().measure(stage)] == pytest.approx([2 / 3, 1, 0, 1])


def test_copies_in_train_vote_once(make_stage):
    stage = make_stage(spread=4.0, sizes=dict.fromkeys(("train", "val"), (60, 60, 60)))
    expected = of_all(NearestNeighbours([5]).measure(stage))[0]
    again = np.arange(0, 180, 3)
    stage.features["train"] = np.concatenate([stage.features["train"], stage.features["train"][again] * (1 + 1e-7)])
    stage.labels["train"] = np.concatenate([stage.labels["train"], stage.labels["train"][again]])
    found = of_all(NearestNeighbours([5]).measure(stage))[0]
    assert found.value == expected.value
    assert found.note.endswith("; train: 60 of 240 samples (25.0%) are copies of others and count once")


@pytest.mark.parametrize("own_label", [True, False])
def test_a_copy_in_train_does_not_vote_on_itself(make_stage, own_label):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 8)).astype("f"), rng.integers(0, 2, 300)
    val = rng.permutation(200)[:100]
    labels = {"train": y, "val": y[val] if own_label else 1 - y[val]}
    stage = make_stage(classes=2, features={"train": x, "val": x[val]}, labels=labels)
    row = of_all(NearestNeighbours([1]).measure(stage))[0]
    others = ScikitLearns(n_neighbors=1).fit(x).kneighbors()[1][val, 0]
    assert row.value == pytest.approx(np.mean(y[others] == labels["val"]))
    assert "100 of 100 val samples are copies of train samples, which did not vote on them" in row.note
