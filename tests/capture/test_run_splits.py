"""A run's splits are captured in batches that fit, by any number of processes, in a precision that is measured."""

import numpy as np
import pytest
import torch

from lwexplain.capture import run_splits, store
from lwexplain.capture.run_splits import TOLERATED_ERROR, Precision, RunCapture
from lwexplain.capture.store import FeatureStore
from lwexplain.config import load_config
from lwexplain.data.load import load_data
from lwexplain.models.build import build_model
from lwexplain.processes import World
from lwexplain.run.files import RunFiles

CONFIG = load_config(
    {
        "data": {"name": "synthetic", "options": {"samples": 300, "size": 8, "classes": 3}},
        "model": {"name": "cnn", "width": 4, "options": {"depth": 3}},
    }
)


def capture_of(**options):
    data = load_data(CONFIG.data, 0)
    model = build_model(CONFIG.model, data.shape, data.num_classes, 0).eval()
    positions = {split: torch.arange(len(getattr(data, split))) for split in ("train", "val", "test")}
    options = {"working_bytes": 2**29, "device": torch.device("cpu"), "seed": 0} | options
    return RunCapture(model, model.names, data, positions, **options)


def captured(folder, capture, split="train"):
    stored = FeatureStore(RunFiles(folder.parent).within(folder.name), {}).split(split, len(capture.positions[split]))
    capture.split(split, stored)
    return stored.read()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD_ROWS", 50)


def test_features_are_those_of_the_stages_run_on_all_images_at_once(tmp_path):
    capture = capture_of()
    found = captured(tmp_path, capture)
    images = capture.data.train
    x = next(iter(capture._batches("train", capture.positions["train"]).in_order(len(images)).epoch()))[0]
    with torch.no_grad():
        for depth, name in enumerate(capture.names, start=1):
            raw = capture.model.run_stages(x, 0, depth)
            np.testing.assert_allclose(found.features[name], raw.mean((2, 3)), rtol=1e-5, atol=1e-6)
    assert found.labels.tolist() == images.labels.tolist()
    assert found.index.tolist() == list(range(len(images)))


def test_little_memory_makes_small_batches_and_the_same_features(tmp_path):
    sizes = []
    plenty = captured(tmp_path / "plenty", capture_of())
    capture = capture_of(working_bytes=2 * 7 * capture_of()._pass_of_one_image().peak_bytes)
    first = capture.model.stages[capture.names[0]]
    handle = first.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    little = captured(tmp_path / "little", capture)
    handle.remove()
    assert 1 < max(sizes) <= 7
    for name in plenty.features:
        np.testing.assert_allclose(little.features[name], plenty.features[name], rtol=1e-5, atol=1e-6)


def test_each_of_two_processes_fills_its_shards(tmp_path, monkeypatch):
    """Both look before one of them fills."""
    whole = captured(tmp_path / "one", capture_of())
    n, shards = len(whole.labels), -(-len(whole.labels) // 50)
    monkeypatch.setattr(World, "any", lambda self, *flags: list(flags))
    for rank in (0, 1):
        stored = FeatureStore(RunFiles(tmp_path).within("two"), {}).split("train", n)
        monkeypatch.setattr(stored, "missing", lambda: list(range(shards)))
        if rank == 1:
            monkeypatch.setattr(stored, "begin", lambda: pytest.fail("the first process alone clears away"))
        capture_of(world=World(rank, 2)).split("train", stored)
        assert len(FeatureStore(RunFiles(tmp_path).within("two"), {}).split("train", n).missing()) == (
            shards // 2 if rank == 0 else 0
        )
    both = FeatureStore(RunFiles(tmp_path).within("two"), {}).split("train", n).read()
    for name in whole.features:
        np.testing.assert_allclose(both.features[name], whole.features[name], rtol=1e-5, atol=1e-6)


def test_bfloat16_is_taken_where_it_pays_and_hardly_changes_the_features(monkeypatch):
    capture = capture_of()
    assert capture.choose_precision("auto") == Precision(), "a short pass stays in float32"
    monkeypatch.setattr(run_splits, "LONG_PASS", 0)
    monkeypatch.setattr(run_splits, "_has_fast_bfloat16", lambda _device: True)
    chosen = capture.choose_precision("auto")
    assert chosen.dtype == torch.bfloat16
    assert 0 < chosen.error <= TOLERATED_ERROR
    assert "of their spread" in chosen.note
    assert Precision.of(chosen.to_dict()) == chosen
    monkeypatch.setattr(run_splits, "TOLERATED_ERROR", chosen.error / 2)
    assert capture.choose_precision("auto").dtype == torch.float32
    assert capture.choose_precision("bfloat16").dtype == torch.bfloat16


def test_the_error_of_half_precision_is_below_what_it_is_said_to_be(tmp_path):
    capture = capture_of()
    exact = captured(tmp_path / "exact", capture)
    capture.precision = capture.choose_precision("bfloat16")
    rough = captured(tmp_path / "rough", capture)
    for name in exact.features:
        apart = np.sqrt(np.square(exact.features[name] - rough.features[name]).mean())
        assert apart <= 1.5 * capture.precision.error * np.sqrt(exact.features[name].var(0).mean())


def test_features_that_are_not_finite_are_kept_for_the_probes_to_say_so(tmp_path):
    capture = capture_of()
    with torch.no_grad():
        next(capture.model.parameters()).fill_(torch.nan)
    assert all(np.isnan(features).any() for features in captured(tmp_path, capture).features.values())
