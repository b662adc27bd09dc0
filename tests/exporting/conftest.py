"""Tiny trained runs, and somebody without lwexplain to run what is exported from them."""

import importlib
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

TINY = {
    "data": {"name": "synthetic", "batch_size": 32, "val_fraction": 0.25},
    "training": {"epochs": 2, "optimizer": {"lr": 0.05}},
}
SYNTHETIC = {"samples": 320, "size": 8, "classes": 4, "channels": 3, "difficulty": 0.3}
SMALL = {"cnn": {"depth": 4}, "vgg11": {}, "resnet18": {}, "slim_resnet18": {}}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Make (once) the run of a model family, strategy and way of cutting."""
    import lwexplain as lw

    folder, made = tmp_path_factory.mktemp("runs"), {}

    def make(family="cnn", strategy="greedy", units="block", head="linear"):
        key = f"{family}_{strategy}_{units}_{head}"
        if key not in made:
            config = TINY | {"model": {"name": family, "width": 4, "units": units, "options": SMALL[family]}}
            overrides = {
                "training.strategy": strategy,
                "training.head": head,
                "data.options": SYNTHETIC,
            }
            made[key] = lw.train(config, overrides, run_dir=folder / key)
        return made[key]

    return make


@pytest.fixture(scope="session", autouse=True)
def translations_to_onnx():
    """Torch reads the source of all its translations to ONNX anew for each file, in a second; here it does so once."""
    translations = importlib.import_module("torch.onnx._internal.exporter._registration").onnxscript_apis
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translations, "get_torchlib_ops", cache(translations.get_torchlib_ops))
        yield


@pytest.fixture
def test_images(tmp_path):
    """The test images of a run as float32 (N, C, H, W) in [0, 1], saved as .npy, and their labels (N,)."""
    from lwexplain.config import load_config
    from lwexplain.data.load import load_data

    def save(run):
        config = load_config(run.config())
        test = load_data(config.data, config.seed).test
        path = tmp_path / "images.npy"
        np.save(path, test.images.numpy().astype(np.float32) / np.float32(255))
        return path, test.labels.numpy()

    return save


@pytest.fixture
def stranger(tmp_path):
    """Run a file on saved images in a process where lwexplain cannot be imported."""

    def run(file, images):
        result = tmp_path / "result.npz"
        script = Path(__file__).with_name("stranger.py")
        subprocess.run([sys.executable, str(script), str(file), str(images), str(result)], check=True, cwd=tmp_path)
        found = np.load(result)
        return found["logits"], found["places"], json.loads(str(found["metadata"]))

    return run
