"""Nearest neighbours and class means agree with scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from lwexplain.errors import ProbeError
from lwexplain.probes import distances
from lwexplain.probes.neighbours import NearestClassMean, NearestNeighbours, majority


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("block_bytes", [8 * 87 * 5, 2**22])
def test_accuracy_equals_scikit_learns(make_stage, monkeypatch, k: int, block_bytes: int) -> None:
    monkeypatch.setattr(distances, "BLOCK_BYTES", block_bytes)
    stage = make_stage(spread=3.0, seed=k)
    model = KNeighborsClassifier(k).fit(stage.features["train"].astype(float), stage.labels["train"])
    for row in NearestNeighbours(grid=[k]).measure(stage):
        x, y = stage.features[row.split].astype(float), stage.labels[row.split]
        share = model.predict_proba(x)
        clear = np.sort(share, axis=1)[:, -1] > np.sort(share, axis=1)[:, -2] + 1e-9
        votes = stage.labels["train"][model.kneighbors(x, return_distance=False)]
        tied = [max(v, key=lambda c, v=v: (np.sum(v == c), -list(v).index(c))) for v in votes]
        expected = np.where(clear, share.argmax(1), tied)
        assert row.value == pytest.approx(np.mean(expected == y))
        assert row.note == f"k={k}"
        assert row.n == len(y)


def test_k_is_chosen_on_val(make_stage) -> None:
    stage = make_stage(spread=4.0, classes=2, sizes=dict.fromkeys(("train", "val", "test"), (80, 80)))
    single = {k: NearestNeighbours([k]).measure(stage)[0].value for k in (1, 5, 10, 20)}
    chosen = NearestNeighbours().measure(stage)
    best = min(k for k in single if single[k] == max(single.values()))
    assert [row.note for row in chosen] == [f"k={best}"] * 2
    assert [row.split for row in chosen] == ["val", "test"]


def test_a_tied_vote_goes_to_the_nearest() -> None:
    labels = torch.tensor([[2, 1, 1, 2], [0, 1, 2, 1], [3, 2, 1, 0]])
    assert majority(labels, 4).tolist() == [2, 1, 3]


def test_few_training_samples_limit_k(make_stage) -> None:
    stage = make_stage(sizes={"train": (2, 2, 2), "val": (5, 5, 5)})
    rows = NearestNeighbours().measure(stage)
    assert [row.split for row in rows] == ["val"]
    assert rows[0].note in ("k=1", "k=5")
    with pytest.raises(ProbeError, match="train has 6 samples, fewer than k = 7"):
        NearestNeighbours([7]).measure(stage)
    with pytest.raises(ProbeError, match="grid of k"):
        NearestNeighbours([0])


def test_nearest_class_mean_equals_scikit_learns(make_stage) -> None:
    stage = make_stage(spread=3.0, classes=4)
    model = NearestCentroid().fit(stage.features["train"].astype(float), stage.labels["train"])
    rows = NearestClassMean().measure(stage)
    assert [row.split for row in rows] == ["val", "test"]
    for row in rows:
        assert row.value == pytest.approx(model.score(stage.features[row.split], stage.labels[row.split]))


def test_a_class_without_training_samples_is_never_predicted(make_stage) -> None:
    stage = make_stage(sizes={"train": (20, 0, 20), "val": (10, 10, 10)}, spread=0.1)
    assert NearestClassMean().measure(stage)[0].value == pytest.approx(2 / 3)
