"""The demonstration: both ways of training on the embedded digits, from images to two justified depths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

RECIPE: dict[str, Any] = {
    "seed": 0,
    "data": {"name": "digits", "val_fraction": 0.25, "batch_size": 64, "augment": {"crop": 1}},
    "model": {"name": "resnet18", "width": 16, "units": "block"},
}
CONFIGS: dict[str, dict[str, Any]] = {
    "digits_bp": RECIPE
    | {
        "training": {
            "strategy": "bp",
            "epochs": 20,
            "optimizer": {"lr": 0.05},
            "schedule": {"name": "cosine", "warmup_epochs": 1},
        }
    },
    "digits_greedy": RECIPE
    | {
        "training": {
            "strategy": "greedy",
            "epochs": 8,
            "head": "conv",
            "optimizer": {"lr": 0.05},
            "schedule": {"name": "cosine", "warmup_epochs": 1},
        }
    },
}
"""The same experiments as configs/digits_bp.yaml and configs/digits_greedy.yaml."""


def run_demo(out: Path, say: Callable[[str], None], show: Callable[[Any], None]) -> list[Path]:
    """Train, analyze, recommend and report for each configuration under ``out``; returns the paths of the reports.

    ``say`` takes what is going on, ``show`` each analyzed run. Finished runs of an earlier demonstration are reused.
    """
    from lwexplain import api

    reports = []
    for name, config in CONFIGS.items():
        say(f"{name}: training ResNet-18 (width 16) by {config['training']['strategy']} on 1,797 digits")
        run = api.train(config, run_dir=out / name, resume=(out / name).exists())
        say(f"{name}: analyzing {len(run.manifest['stages'])} stages")
        api.analyze(run)
        show(run)
        reports.append(api.report(run))
    return reports
