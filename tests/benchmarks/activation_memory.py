"""Activation bytes of one training step of a full-width ResNet-18 under every strategy: results/activation_bytes.json.

    python tests/benchmarks/activation_memory.py            # batch 256, images of 1 x 28 x 28, some minutes

Counted is the peak of the bytes alive in forward and backward pass beyond weights, their gradients and the batch
(``lwexplain.models.activations``); checkpointing and accumulation, which save memory without any local loss, stand in
the same table.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from result_file import write_result

from lwexplain.config import load_config
from lwexplain.data.load import load_data
from lwexplain.run import Run
from lwexplain.training.loop import Trainer

VARIANTS: dict[str, dict[str, Any]] = {
    "bp": {"strategy": "bp"},
    "bp, gradient checkpointing": {"strategy": "bp", "gradient_checkpointing": True},
    "bp, accumulation in 4 parts": {"strategy": "bp", "accumulate": 4},
    "deep supervision": {"strategy": "deep_supervision"},
    "decoupled, linear heads": {"strategy": "decoupled"},
    "decoupled, mlp_sr heads": {"strategy": "decoupled", "head": "mlp_sr"},
    "decoupled, conv heads": {"strategy": "decoupled", "head": "conv"},
    "decoupled, auglocal heads": {"strategy": "decoupled", "head": "auglocal"},
    "decoupled, mlp_sr heads, infopro": {"strategy": "decoupled", "head": "mlp_sr", "loss": "infopro"},
    "greedy, mlp_sr heads": {"strategy": "greedy", "head": "mlp_sr"},
}


def measure(training: dict[str, Any], batch: int, width: int) -> dict[str, float]:
    """Activation bytes of the most demanding step, and the FLOPs of a step (of one of each phase) for an image."""
    config = load_config(
        {
            "data": {"name": "synthetic", "batch_size": batch, "val_fraction": 0.05, "options": {}},
            "model": {"name": "resnet18", "width": width},
            "training": {"epochs": 1, "precision": "bf16", "checkpoint_seconds": 3600, **training},
        },
        {"data.options.samples": 2 * batch + batch // 4, "data.options.size": 28, "data.test_fraction": 0.05},
    )
    data = load_data(config.data, config.seed).for_training()
    with tempfile.TemporaryDirectory() as folder:
        trainer, run = Trainer(config, data), Run.create(Path(folder) / "run", config.to_yaml())
        trainer.fit(run, quiet=True)
        costs = run.manifest["costs"]
    return {key: costs[key] for key in ("activation_bytes", "step_flops")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    found = {}
    for name, training in VARIANTS.items():
        found[name] = measure(training, options.batch, options.width)
        found[name]["share_of_bp"] = found[name]["activation_bytes"] / found["bp"]["activation_bytes"]
        print(
            f"{name:40} {found[name]['activation_bytes'] / 2**20:9.1f} MiB {found[name]['share_of_bp']:.3f}", flush=True
        )
    content = {"model": "resnet18", "width": options.width, "batch": options.batch, "precision": "bf16"}
    print(write_result("activation_bytes", content | {"strategies": found}))


if __name__ == "__main__":
    main()
