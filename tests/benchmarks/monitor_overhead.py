"""What lw.Monitor costs in a plain PyTorch loop: the same training with and without it, in turn.

    python tests/benchmarks/monitor_overhead.py     # results/monitor_overhead.json

A ResNet-18 of width 16 learns 6,000 images of Fashion-MNIST (generated images of the same size where that set is not
on the machine), each epoch followed by an evaluation on val, as loops usually have it. Written are the seconds of every
epoch, and the share of the training's time that the steps of the monitor took: of wall time, as it counts it itself,
and of processor time, which other work on the machine hardly changes. The weights at the end must be the same, bit for
bit.
"""

import argparse
import statistics
import tempfile
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from result_file import write_result
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lwexplain as lw
from lwexplain.config import load_config
from lwexplain.data.load import load_data
from lwexplain.errors import DataError
from lwexplain.models.build import build_model

ROOT = Path(__file__).parents[2]
SHAPE = (1, 28, 28)


def images_and_labels(train: int, val: int) -> tuple[str, dict[str, TensorDataset]]:
    """The name of the data, and its train and val parts as a person's own loop would hold them: normalised tensors."""
    overrides = {"data.train_size": train, "data.val_fraction": val / 60_000}
    config = load_config(ROOT / "configs" / "fashion_mnist_bp.yaml", overrides)
    try:
        data = load_data(config.data, config.seed)
    except DataError:
        labels = torch.arange(train + val) % 10
        pictures = torch.randn(train + val, *SHAPE) + torch.randn(10, *SHAPE)[labels]
        parts = {"train": slice(0, train), "val": slice(train, None)}
        return "generated", {name: TensorDataset(pictures[part], labels[part]) for name, part in parts.items()}
    found = {}
    for name, part in (("train", data.train), ("val", data.val)):
        pixels = part.gather(torch.arange(len(part))).float() / 255
        found[name] = TensorDataset((pixels - data.mean[0]) / data.std[0], part.labels)
    return "fashion_mnist", found


def plain_loop(parts: dict[str, TensorDataset], epochs: int, out: Path | None) -> dict[str, Any]:
    """Train with a monitor that writes to ``out``, or without one; seconds of each epoch and what the monitor says."""
    model = network()
    train = DataLoader(parts["train"], batch_size=128, shuffle=True)
    val = DataLoader(parts["val"], batch_size=256)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    stages = [name for name, _ in model.named_children()][:-1]
    monitor = None if out is None else lw.Monitor(model, val, stages, out=out)
    seconds, cpu_seconds, accuracy, looks_cpu = [], [], 0.0, 0.0
    for epoch in range(epochs):
        started, cpu_started = time.perf_counter(), time.process_time()
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        accuracy = evaluate(model, val)
        if monitor is not None:
            before = time.process_time()
            monitor.step(epoch)
            looks_cpu += time.process_time() - before
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    found: dict[str, Any] = {"epoch_seconds": seconds, "epoch_cpu_seconds": cpu_seconds, "val_accuracy": accuracy}
    found["weights"] = weights_of(model)
    if monitor is not None and monitor.run is not None:
        looks = [event for event in monitor.run.read_events() if event["depth"] == 1]
        found |= {
            "looks_at_epochs": [event["epoch"] for event in looks],
            "images_a_look": looks[-1]["images"] if looks else 0,
            "look_seconds": [event["seconds"] for event in looks],
            "overhead": monitor.overhead,
            "cpu_overhead": looks_cpu / (sum(cpu_seconds) - looks_cpu),
            "setup_seconds": monitor.setup_seconds,
        }
    return found


def network() -> nn.Sequential:
    """The ResNet-18 of width 16 with a linear head, its blocks in a row; the same weights every time."""
    staged = build_model(load_config(ROOT / "configs" / "fashion_mnist_bp.yaml").model, SHAPE, 10, seed=0)
    torch.manual_seed(0)
    blocks = {name.replace(".", "_"): module for name, module in staged.stages.items()}
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return nn.Sequential(OrderedDict(blocks | {"head": head}))


def evaluate(model: nn.Module, loader: DataLoader[Any]) -> float:
    """Accuracy on val."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    return right / len(loader.dataset)  # type: ignore[arg-type]


def weights_of(model: nn.Module) -> Tensor:
    """All weights and buffers in a row."""
    return torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--val", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    name, parts = images_and_labels(options.images, options.val)
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            bare, watched = (
                plain_loop(parts, options.epochs, None),
                plain_loop(parts, options.epochs, Path(folder, "run")),
            )
        same = torch.equal(bare.pop("weights"), watched.pop("weights"))
        if not same:
            raise SystemExit("the monitor changed the training: the weights differ")
        runs.append({"without": bare, "with": watched})
        print(runs[-1], flush=True)
    summary = {
        "data": name,
        "images": options.images,
        "val_images": options.val,
        "epochs": options.epochs,
        "median_overhead": statistics.median(run["with"]["overhead"] for run in runs),
        "median_cpu_overhead": statistics.median(run["with"]["cpu_overhead"] for run in runs),
        "weights_are_the_same": True,
        "runs": runs,
    }
    print(write_result("monitor_overhead", summary))


if __name__ == "__main__":
    main()
