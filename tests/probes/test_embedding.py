"""Layouts: the same samples in every stage, in place from stage to stage, the same for a seed."""

import subprocess
import sys

import numpy as np
import pytest

from lwexplain.errors import ProbeError
from lwexplain.probes.base import Embedding, Measurement
from lwexplain.probes.embedding import Pca, Umap, choose_samples, run_in_own_process
from lwexplain.probes.engine import run_probes


def three_stages(make_stage, **options):
    options = {"classes": 3, "seed": 2, "sizes": dict.fromkeys(("train", "val"), (30, 40, 50))} | options
    return [make_stage(f"s{d}", d, dims=60 if d == 2 else 8, spread=2.0 / d, **options) for d in (1, 2, 3)]


def same_labels(stages):
    for stage in stages[1:]:
        order = np.argsort(stage.labels["val"], kind="stable")[
            np.argsort(np.argsort(stages[0].labels["val"], kind="stable"), kind="stable")
        ]
        stage.features["val"] = stage.features["val"][order]
        stage.labels["val"] = stages[0].labels["val"]
    return stages


@pytest.mark.slow
def test_umap_layouts(make_stage) -> None:
    stages = same_labels(three_stages(make_stage))
    first, again = (Umap(max_samples=100).measure_all(stages) for _ in range(2))
    assert list(first) == ["s1", "s2", "s3"]
    for name, results in first.items():
        layout = next(item for item in results if isinstance(item, Embedding))
        quality = next(item for item in results if isinstance(item, Measurement))
        assert (layout.method, layout.split, layout.coordinates.shape) == ("umap", "val", (100, 2))
        assert layout.coordinates.dtype == np.float32
        assert np.isfinite(layout.coordinates).all()
        np.testing.assert_array_equal(layout.coordinates, again[name][0].coordinates)
        assert (quality.metric, quality.n) == ("trustworthiness", 100)
        assert 0.6 < quality.value <= 1.0
        assert "100 of 120 samples" in quality.note


@pytest.mark.slow
def test_a_stage_that_does_not_change_keeps_its_points(make_stage) -> None:
    options = {"classes": 5, "dims": 8, "spread": 0.5, "sizes": {"val": (60, 80, 70, 90, 100)}}
    found = Umap().measure_all([make_stage("a", 1, **options), make_stage("b", 2, **options)])
    before, after = (found[name][0].coordinates for name in ("a", "b"))
    moved = np.linalg.norm(after - before, axis=1).mean()
    apart = np.linalg.norm(before - np.random.default_rng(0).permutation(before), axis=1).mean()
    assert moved < 0.35 * apart  # 0.6 from an unrelated start


def test_the_process_of_umap_has_no_torch() -> None:
    code = "import sys, lwexplain.probes.umap_layout; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_failing_or_slow_process_is_told(make_stage) -> None:
    with pytest.raises(ProbeError, match=r"umap_layout failed: FileNotFoundError.*nowhere"):
        run_in_own_process("lwexplain.probes.umap_layout", ["nowhere.npz", "out.npz"], 60)
    run = run_probes(same_labels(three_stages(make_stage)), [Umap(timeout=0.01)])
    assert run.failures[0]["stage"] is None
    assert "took longer than 0.01 s" in run.failures[0]["error"]
    tiny = make_stage(sizes={"train": (2, 2), "val": (2, 2)}, classes=2)
    with pytest.raises(ProbeError, match="at least 5 samples"):
        Umap().measure_all([tiny])


def test_pca_layouts_keep_their_place(make_stage) -> None:
    stages = same_labels(three_stages(make_stage))
    mirrored = make_stage("s4", 4)
    mirrored.features["val"], mirrored.labels["val"] = -stages[2].features["val"] + 9, stages[2].labels["val"]
    found = Pca().measure_all([*stages, mirrored])
    layouts = [found[f"s{d}"][0] for d in (1, 2, 3, 4)]
    assert all(item.method == "pca" and item.coordinates.shape == (120, 2) for item in layouts)
    np.testing.assert_allclose(
        layouts[3].coordinates - layouts[3].coordinates.mean(0),
        layouts[2].coordinates - layouts[2].coordinates.mean(0),
        atol=1e-4,
    )


def test_samples_are_chosen_in_proportion_and_for_a_seed(make_stage) -> None:
    stage = make_stage(sizes={"val": (600, 300, 100)})
    chosen = choose_samples([stage], "val", 100)
    np.testing.assert_allclose(np.bincount(stage.labels["val"][chosen]), (60, 30, 10), atol=2)
    assert len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, choose_samples([stage], "val", 100))
    other = make_stage(sizes={"val": (600, 300, 100)})
    other.seed = 7
    assert not np.array_equal(chosen, choose_samples([other], "val", 100))
    assert len(choose_samples([stage], "val", 5000)) == 1000


def test_stages_with_other_samples_are_refused(make_stage) -> None:
    stages = [make_stage("a", 1, seed=0), make_stage("b", 2, seed=1)]
    with pytest.raises(ProbeError, match="'a' and 'b' differ in their val labels"):
        Pca().measure_all(stages)
