"""The comparison of the thesis "Layer-wise deep learning for object classifications" (Xu Lei, NTU, 2023) in one go.

ResNet-18 by global back-propagation and SGD, the same network layer by layer, and the slim ResNet-18 layer by layer:
accuracy of every depth, separability of every stage, parameters, memory, time, and the number of layers as an answer.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwexplain.config import load_config
from lwexplain.study import Experiment, run_study
from lwexplain.text import escape_markdown

AUGMENT: dict[str, dict[str, Any]] = {
    "digits": {"crop": 1},
    "mnist": {"crop": 2},
    "fashion_mnist": {"crop": 2, "flip": True},
    "cifar10": {"crop": 4, "flip": True},
    "cifar100": {"crop": 4, "flip": True},
}
"""Augmentation of known data sets; others are mirrored only."""

LAYERWISE: dict[str, Any] = {"strategy": "greedy", "head": "mlp_sr"}

VARIANTS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("bp", "ResNet-18, BP + SGD", "resnet18", {"strategy": "bp"}),
    ("layerwise", "ResNet-18, layer-wise", "resnet18", LAYERWISE),
    ("slim_layerwise", "slim ResNet-18, layer-wise", "slim_resnet18", LAYERWISE),
)


def thesis_experiments(data: str, width: int | None, overrides: dict[str, Any]) -> list[Experiment]:
    """The three networks of the thesis under one recipe; ``data`` is a data set's name or a folder of images."""
    is_folder = Path(data).is_dir()
    source: dict[str, Any] = {"name": "folder", "root": data} if is_folder else {"name": data}
    recipe = {
        "epochs": 10,
        "precision": "bf16",
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
    }
    experiments = []
    for name, title, model, training in VARIANTS:
        config = {
            "data": source | {"batch_size": 128, "augment": AUGMENT.get(data, {"flip": True})},
            "model": {"name": model, "width": width, "units": "block"},
            "training": recipe | training,
        }
        experiments.append(Experiment(name, title, load_config(config, overrides).model_dump(mode="json")))
    return experiments


def reproduce_thesis(
    data: str,
    width: int | None,
    seeds: int,
    out: Path,
    overrides: dict[str, Any],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train what is missing, analyze, and write ``table.json`` and ``table.md`` under ``out``; returns the rows."""
    from lwexplain.run.files import atomic_path
    from lwexplain.views.study_table import experiment_table, summary_table

    rows = run_study(thesis_experiments(data, width, overrides), range(seeds), out, say=say)
    parts = [summary_table(rows).markdown()]
    parts += [f"## {escape_markdown(row['title'])}\n\n{experiment_table(row).markdown()}" for row in rows]
    with atomic_path(out / "table.md") as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")
    return rows
