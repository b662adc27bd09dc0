"""A training small enough for a second: 240 generated images, a narrow plain network of three stages."""

import pytest

from lwexplain.config import load_config
from lwexplain.data.load import load_data
from lwexplain.run import Run
from lwexplain.training.loop import Trainer

TINY = {
    "data": {
        "name": "synthetic",
        "batch_size": 32,
        "augment": {"crop": 1, "flip": True, "cutout": 2},
        "options": {"samples": 300, "size": 8, "classes": 3, "difficulty": 0.2},
    },
    "model": {"name": "cnn", "width": 4, "options": {"depth": 3}},
    "training": {"strategy": "bp", "epochs": 2, "optimizer": {"lr": 0.05}},
}


@pytest.fixture
def make(tmp_path):
    """Make a trainer and the run it trains into: ``make(name, {"training.epochs": 3})``."""

    def build(name="run", overrides=None, stop_rule=None):
        config = load_config(TINY, overrides)
        trainer = Trainer(config, load_data(config.data, config.seed).for_training(), stop_rule)
        path = tmp_path / name
        run = Run.open(path) if path.exists() else Run.create(path, config.to_yaml())
        return trainer, run

    return build
