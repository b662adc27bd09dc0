"""Similarity of the stages of two runs on the same images."""

import numpy as np
import pytest

import lwexplain as lw
from lwexplain.errors import CaptureError, RunError

TINY = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 400, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 3}},
    "training": {"strategy": "bp", "epochs": 1, "optimizer": {"lr": 0.05}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    changes = {"first": {}, "second": {"seed": 1, "model.options.depth": 2}, "large": {"data.options.size": 12}}
    return {name: lw.train(TINY, change, run_dir=folder / name, quiet=True) for name, change in changes.items()}


def test_every_stage_of_one_run_is_compared_with_every_stage_of_the_other(runs):
    table = lw.similarity(runs["first"], runs["second"].path)
    assert len(table) == 3 * 2
    assert table["other_stage"].unique().tolist() == ["conv1", "conv2"]
    assert (table[["cka_linear", "cka_rbf"]] <= 1 + 1e-9).all(axis=None)


def test_a_run_is_the_same_as_itself(runs):
    table = lw.similarity(runs["first"], runs["first"])
    grid = table.pivot(index="depth", columns="other_depth", values="cka_linear").to_numpy()
    np.testing.assert_allclose(np.diag(grid), 1, atol=1e-6)
    np.testing.assert_allclose(grid, grid.T, atol=1e-9)


def test_images_of_another_shape_and_too_few_of_them_are_refused(runs):
    with pytest.raises(RunError, match=r"shape \(1, 8, 8\).*\(1, 12, 12\)"):
        lw.similarity(runs["first"], runs["large"])
    with pytest.raises(CaptureError, match="needs 4 images"):
        lw.similarity(runs["first"], runs["second"], max_samples=3)
