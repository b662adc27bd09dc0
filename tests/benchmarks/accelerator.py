"""Full-width ResNet-18 on an accelerator: images a second and peak memory of every strategy, and accuracy on CIFAR-10.

    python tests/benchmarks/accelerator.py --data ~/data/cifar10-jpeg           # results/accelerator.json
    python tests/benchmarks/accelerator.py --data ~/data/cifar10-jpeg --tiny    # the same on a CPU, to see that it runs

``--data`` is a folder ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``. Speed: bf16, channels_last, batch 512, the
median epoch of a short training. Accuracy: one seed of bp, decoupled and greedy by the recipe below, decided on val,
read on test once. Runs that are done are kept under ``--out``, a second call goes on.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from result_file import write_result

from lwexplain import api
from lwexplain.config import Config, load_config
from lwexplain.run import Run
from lwexplain.study import Experiment, run_study

STRATEGIES: dict[str, dict[str, Any]] = {
    "bp": {"strategy": "bp"},
    "bp, compiled": {"strategy": "bp", "compile": True},
    "bp, gradient checkpointing": {"strategy": "bp", "gradient_checkpointing": True},
    "bp, accumulation in 4 parts": {"strategy": "bp", "accumulate": 4},
    "deep supervision, mlp_sr heads": {"strategy": "deep_supervision", "head": "mlp_sr"},
    "decoupled, mlp_sr heads": {"strategy": "decoupled", "head": "mlp_sr"},
    "decoupled, auglocal heads": {"strategy": "decoupled", "head": "auglocal"},
    "greedy, mlp_sr heads": {"strategy": "greedy", "head": "mlp_sr"},
    "greedy, mlp_sr heads, no prefix cache": {"strategy": "greedy", "head": "mlp_sr", "prefix_cache": "off"},
}
ACCURACY: dict[str, dict[str, Any]] = {
    "bp": {"strategy": "bp", "epochs": 100},
    "decoupled": {"strategy": "decoupled", "head": "auglocal", "epochs": 100},
    "greedy": {"strategy": "greedy", "head": "auglocal", "epochs": 30, "prefix_views": 8},
}


def configuration(data: Path, tiny: bool, training: dict[str, Any], *, batch: int) -> Config:
    """The recipe: crop, mirror, cutout; SGD with Nesterov momentum, cosine after a warm-up, label smoothing."""
    tree: dict[str, Any] = {
        "data": {
            "name": "folder",
            "root": str(data),
            "resident": True,
            "val_fraction": 0.05,
            "batch_size": batch,
            "augment": {"crop": 4, "flip": True, "cutout": 8},
        },
        "model": {"name": "resnet18"},
        "training": {
            "precision": "bf16",
            "label_smoothing": 0.1,
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"name": "cosine", "warmup_epochs": 5},
            "checkpoint_seconds": 600,
            **training,
        },
    }
    small = {"data.train_size": 256, "data.batch_size": 32, "model.width": 4, "training.epochs": 2} if tiny else {}
    return load_config(tree, small)


def speed(config: Config, path: Path) -> dict[str, float]:
    """Images a second in the median epoch but the first of each phase, summed over the phases, and peak memory."""
    run = Run.open(path) if path.exists() else None
    run = api.train(config, run_dir=path, resume=run is not None)
    events = run.read_events()
    seconds = []
    for phase in (event for event in events if event["event"] == "phase"):
        lines = [line for line in events if line["event"] == "epoch" and line["depth"] == phase["depth"]]
        seconds.append(statistics.median(line["seconds"] for line in lines[1:]))
    images = run.manifest["data"]["sizes"]["train"]
    costs = run.manifest["costs"]
    return {
        "images_per_second": images / sum(seconds),
        "seconds_per_epoch": sum(seconds),
        **{key: costs[key] for key in ("peak_memory_bytes", "activation_bytes", "step_flops", "prefix_bytes")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--part", choices=["speed", "accuracy", "all"], default="all")
    parser.add_argument("--tiny", action="store_true", help="narrow network, few images: only to see that it runs")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        parser.error("no accelerator here; add --tiny to try the script on the CPU")
    content: dict[str, Any] = {"data": "CIFAR-10 (JPEG copy)", "model": "resnet18", "width": 64}
    if options.part != "accuracy":
        content["speed"] = {"batch": 512, "precision": "bf16", "strategies": {}}
        for name, training in STRATEGIES.items():
            config = configuration(options.data, options.tiny, training | {"epochs": 4}, batch=512)
            found = speed(config, options.out / "speed" / name.replace(", ", "_").replace(" ", "_"))
            content["speed"]["strategies"][name] = found
            print(f"{name:40} {found['images_per_second']:10.0f} images/s", flush=True)
    if options.part != "speed":
        rows = [
            Experiment(
                name, name, configuration(options.data, options.tiny, training, batch=128).model_dump(mode="json")
            )
            for name, training in ACCURACY.items()
        ]
        say = partial(print, flush=True)
        content["accuracy"] = run_study(rows, [0], options.out / "accuracy", probes=["head", "linear"], say=say)
        for row in content["accuracy"]:
            print(f"{row['title']:40} test {row['test_accuracy']['mean']:.4f}", flush=True)
    if not options.tiny:
        print(write_result("accelerator", content))


if __name__ == "__main__":
    main()
