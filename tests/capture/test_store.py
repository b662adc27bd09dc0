"""A feature store is filled shard by shard, by several processes or after an interruption, and says what is missing."""

import errno

import numpy as np
import pytest

from lwexplain.capture import store as store_module
from lwexplain.capture.extract import Captured
from lwexplain.capture.store import FeatureStore, StoredSplit
from lwexplain.errors import RunError
from lwexplain.run.files import RunFiles

N = 10


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_ROWS", 4)


def captured(rows=slice(None)):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(N, 3)).astype(np.float32), rng.normal(size=(N, 5)).astype(np.float32)
    index, labels = np.arange(N) + 100, np.arange(N) % 3
    return Captured({"a": a[rows], "b/1": b[rows]}, labels[rows], {"a": b[rows, :2]}, index[rows])


def fill(split, numbers):
    for number in numbers:
        split.add(number, captured(split.shards[number]))


def test_shards_in_any_order_make_the_whole_split(tmp_path):
    split = FeatureStore(RunFiles(tmp_path), {}).split("val", N)
    assert [(part.start, part.stop) for part in split.shards] == [(0, 4), (4, 8), (8, 10)]
    fill(split, [2, 0])
    assert split.missing() == [1]
    assert split.read() is None
    fill(StoredSplit(RunFiles(tmp_path).within("val"), N), [1])  # as another process would
    found, expected = split.read(), captured()
    assert found.stages == ["a", "b/1"]
    for name in expected.features:
        assert isinstance(found.features[name], np.memmap)
        np.testing.assert_array_equal(found.features[name], expected.features[name])
    np.testing.assert_array_equal(found.logits["a"], expected.logits["a"])
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.index, expected.index)


def test_files_are_ordinary_npy_files(tmp_path):
    split = FeatureStore(RunFiles(tmp_path), {}).split("val", N)
    fill(split, [0, 1, 2])
    np.testing.assert_array_equal(np.load(tmp_path / "val" / "a.npy"), captured().features["a"])


def test_features_of_another_key_are_deleted_and_those_of_the_same_kept(tmp_path):
    store = FeatureStore(RunFiles(tmp_path).within("features"), {"weights": 1})
    store.prepare()
    fill(store.split("val", N), [0])
    FeatureStore(RunFiles(tmp_path).within("features"), {"weights": 1}).prepare()
    assert store.split("val", N).missing() == [1, 2]
    FeatureStore(RunFiles(tmp_path).within("features"), {"weights": 2}).prepare()
    assert store.split("val", N).missing() == [0, 1, 2]
    assert not store.is_current()


def test_features_of_another_version_are_made_anew(tmp_path, monkeypatch):
    files = RunFiles(tmp_path).within("features")
    FeatureStore(files, {"weights": 1}).prepare()
    monkeypatch.setattr("lwexplain.capture.store.VERSION", "0.0.1")
    assert not FeatureStore(files, {"weights": 1}).is_current()


@pytest.mark.parametrize("name", ["a.npy", "split.json", "labels.npy"])
def test_a_damaged_file_means_that_every_shard_is_missing(tmp_path, name):
    split = FeatureStore(RunFiles(tmp_path), {}).split("val", N)
    fill(split, [0, 1, 2])
    path = tmp_path / "val" / name
    path.write_bytes(path.read_bytes()[:50])
    assert split.missing() == [0, 1, 2]
    split.begin()
    fill(split, [0, 1, 2])
    np.testing.assert_array_equal(split.read().features["a"], captured().features["a"])


def test_a_split_of_another_size_is_made_anew(tmp_path):
    fill(FeatureStore(RunFiles(tmp_path), {}).split("val", N), [0, 1, 2])
    assert FeatureStore(RunFiles(tmp_path), {}).split("val", N - 1).missing() == [0, 1, 2]


def test_a_full_disk_is_named_and_the_shard_stays_missing(tmp_path, monkeypatch):
    split = FeatureStore(RunFiles(tmp_path), {}).split("val", N)
    fill(split, [0])

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", full)
        with pytest.raises(RunError, match=r"No space left on device; free space .* it goes on from here"):
            fill(split, [1])
    assert split.missing() == [1, 2]
