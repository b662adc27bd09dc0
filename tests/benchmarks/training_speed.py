"""How fast training is: a bp step against a bare PyTorch loop, and greedy with its prefix cache against bp.

python tests/benchmarks/training_speed.py step      # median of 5 alternating runs: results/step_overhead.json
python tests/benchmarks/training_speed.py prefix    # median of 3 alternating runs: results/prefix_cache.json
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from result_file import write_result
from torch import nn
from torch.nn import functional as F

from lwexplain.config import Config, load_config
from lwexplain.data.dataset import DataSplits
from lwexplain.data.load import load_data
from lwexplain.models.build import build_model
from lwexplain.run import Run
from lwexplain.training.loop import Trainer
from lwexplain.training.prefix import views_for

ROOT = Path(__file__).parents[2]


def configuration(images: int, epochs: int, **training: Any) -> Config:
    """Width-16 ResNet-18 on part of Fashion-MNIST, as in configs/fashion_mnist_bp.yaml."""
    overrides = {
        "data.train_size": images,
        "data.val_fraction": 0.025,
        "training.epochs": epochs,
        "training.checkpoint_seconds": 3600,
        **{f"training.{key}": value for key, value in training.items()},
    }
    return load_config(ROOT / "configs" / "fashion_mnist_bp.yaml", overrides)


def bare_loop(config: Config, data: DataSplits) -> float:
    """Seconds of one epoch of a loop as a person writes it: same model, batches in memory, precision and format."""
    model = build_model(config.model, data.shape, data.num_classes, config.seed)
    model.set_head(model.depth, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    mean, std = torch.tensor(data.mean).reshape(1, -1, 1, 1), torch.tensor(data.std).reshape(1, -1, 1, 1)
    pad, size = config.data.augment.crop, config.data.batch_size
    started = time.perf_counter()
    order = torch.randperm(len(data.train))
    for index in order[: len(order) // size * size].split(size):
        x = data.train.images[index].float().div_(255).sub_(mean).div_(std)
        top, left = torch.randint(0, 2 * pad + 1, (2,)).tolist()
        x = F.pad(x, (pad, pad, pad, pad))[:, :, top : top + data.shape[1], left : left + data.shape[2]]
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), data.train.labels[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - started


def trainer_epoch(config: Config, data: DataSplits) -> float:
    """Seconds of the second epoch of a bp run: the steps alone, as the log gives them."""
    run = train(config, data)
    return float([event for event in run.read_events() if event["event"] == "epoch"][-1]["seconds"])


def train(config: Config, data: DataSplits) -> Run:
    """Train into a folder that is gone afterwards; the run stays readable through its manifest and events."""
    with tempfile.TemporaryDirectory() as folder:
        trainer, run = Trainer(config, data), Run.create(Path(folder) / "run", config.to_yaml())
        trainer.fit(run, quiet=True)
        events = run.read_events()
    run.read_events = lambda: events  # type: ignore[method-assign]
    return run


def whole_run(config: Config, data: DataSplits) -> dict[str, float]:
    """Wall seconds of a whole training, evaluation and checkpoints included, and its last val accuracy."""
    started = time.perf_counter()
    run = train(config, data)
    seconds = time.perf_counter() - started
    last = [event for event in run.read_events() if event["event"] == "epoch"][-1]
    return {"seconds": seconds, "val_accuracy": last["val_accuracy"]}


def step_overhead(images: int, runs: int) -> dict[str, Any]:
    """Our step and the bare one in turn."""
    config = configuration(images, 2, strategy="bp")
    data = load_data(config.data, config.seed).for_training()
    measures: dict[str, Callable[[Config, DataSplits], float]] = {"bare": bare_loop, "lwexplain": trainer_epoch}
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(runs):
        for name, measure in measures.items():
            seconds[name].append(measure(config, data))
            print(name, round(seconds[name][-1], 2), flush=True)
    ratios = [ours / bare for ours, bare in zip(seconds["lwexplain"], seconds["bare"], strict=True)]
    return {"images": images, "seconds": seconds, "ratios": ratios, "median_ratio": statistics.median(ratios)}


def prefix_cache(images: int, epochs: int, runs: int) -> dict[str, Any]:
    """Greedy over all stages with and without the prefix cache, and bp, at equal epochs a stage, in turn."""
    variants: dict[str, dict[str, Any]] = {
        "bp": {"strategy": "bp"},
        "greedy, linear heads": {"strategy": "greedy"},
        "greedy, linear heads, no cache": {"strategy": "greedy", "prefix_cache": "off"},
        "greedy, mlp_sr heads": {"strategy": "greedy", "head": "mlp_sr"},
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for seed in range(runs):
        for name, training in variants.items():
            config = load_config(configuration(images, epochs, **training), {"seed": seed})
            data = load_data(config.data, config.seed).for_training()
            found[name].append(whole_run(config, data))
            print(name, found[name][-1], flush=True)
    median = {name: statistics.median(run["seconds"] for run in entries) for name, entries in found.items()}
    return {
        "images": images,
        "epochs_per_stage": epochs,
        "views": views_for(epochs),
        "runs": found,
        "median_seconds": median,
        "median_ratio": {
            name: statistics.median(
                run["seconds"] / bp["seconds"] for run, bp in zip(entries, found["bp"], strict=True)
            )
            for name, entries in found.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "prefix"])
    parser.add_argument("--images", type=int, default=10_240)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--runs", type=int)
    options = parser.parse_args()
    if options.what == "step":
        print(write_result("step_overhead", step_overhead(options.images, options.runs or 5)))
    else:
        print(write_result("prefix_cache", prefix_cache(options.images, options.epochs, options.runs or 3)))


if __name__ == "__main__":
    main()
