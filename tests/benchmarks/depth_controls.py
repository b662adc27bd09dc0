"""Advice where the right answer is known beforehand, 20 seeds of each control.

    python tests/benchmarks/depth_controls.py --out runs/depth_controls --jobs 2      # results/depth_controls.json

planted         dot pairs at distances 1, 3 and 5 need a receptive field wider than 5 pixels, which the third of six 3x3
                convolutions is the first to have: right is depth 3 or 4
rising          the same with distances up to 9, but only three convolutions: right is the verdict go_deeper
random_labels   digits whose labels are drawn anew: right is the verdict no_signal
weak_heads      digits layer-wise with one epoch a stage, too little for the heads: right is the verdict heads_too_weak

The first three by global back-propagation and layer-wise; the advice is that of one run with the shipped coefficients.
Runs that are done are kept, a second call goes on.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from depth_tasks import cnn
from result_file import write_result

import lwexplain as lw
from lwexplain.config import Config, load_config

PROBES = ("head", "linear")
STRATEGIES: dict[str, dict[str, Any]] = {
    "bp": {"strategy": "bp"},
    "greedy": {"strategy": "greedy", "head": "linear"},
}


def dot_pairs(*distances: int, size: int, seed: int) -> dict[str, Any]:
    options = {
        "distances": list(distances),
        "size": size,
        "pairs": 8,
        "samples": 8000,
        "noise": 0.05,
        "seed": seed,
    }
    return {"name": "dot_pairs", "val_fraction": 0.3, "test_fraction": 0.2, "options": options}


def config_of(control: str, strategy: str, seed: int) -> Config:
    """One run of a control; the generated images change with the seed, too."""
    data, model, epochs = {
        "planted": (dot_pairs(1, 3, 5, size=16, seed=seed), cnn(32, depth=6, every=20), 10),
        "rising": (dot_pairs(1, 3, 5, 7, 9, size=20, seed=seed), cnn(16, depth=3, every=20), 10),
        "random_labels": ({"name": "digits", "val_fraction": 0.3, "label_noise": 1.0}, cnn(8, depth=4), 10),
        "weak_heads": ({"name": "digits", "val_fraction": 0.3}, cnn(16, depth=4), 1),
    }[control]
    rate = 0.02 if control == "weak_heads" else 0.05
    recipe = {"epochs": epochs, "precision": "bf16", "optimizer": {"lr": rate}, "schedule": {"warmup_epochs": 1}}
    tree = {
        "seed": seed,
        "device": "cpu",
        "data": {"batch_size": 64} | data,
        "model": model,
        "training": recipe | STRATEGIES[strategy],
    }
    return load_config(tree)


def advised(item: tuple[str, str, int], out: Path) -> dict[str, Any]:
    """Train, analyze and ask, in a process of its own."""
    torch.set_num_threads(1)
    control, strategy, seed = item
    path = out / f"{control}_{strategy}" / f"seed_{seed}"
    run = lw.train(config_of(control, strategy, seed), run_dir=path, resume=path.exists(), quiet=True)
    lw.analyze(run, list(PROBES), quiet=True)
    advice = lw.recommend(run)
    row = {"control": control, "strategy": strategy, "seed": seed, "right": is_right(control, advice)}
    return row | {key: getattr(advice, key) for key in ("verdict", "depth", "depth_interval", "full_depth", "reason")}


def is_right(control: str, advice: Any) -> bool:
    """Whether the advice is the known answer."""
    if control == "planted":
        return advice.depth in (3, 4)
    verdicts = {"rising": "go_deeper", "random_labels": "no_signal", "weak_heads": "heads_too_weak"}
    return bool(advice.verdict == verdicts[control])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/depth_controls"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    kinds = [(control, strategy) for control in ("planted", "rising", "random_labels") for strategy in STRATEGIES]
    kinds.append(("weak_heads", "greedy"))
    items = [(*kind, seed) for kind in kinds for seed in range(options.seeds)]
    rows = []
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for row in pool.map(partial(advised, out=options.out), items):
            print(*(row[key] for key in ("control", "strategy", "seed", "verdict", "depth", "right")), flush=True)
            rows.append(row)
    counts = [
        {
            "control": control,
            "strategy": strategy,
            "seeds": options.seeds,
            "right": sum(row["right"] for row in rows if (row["control"], row["strategy"]) == (control, strategy)),
        }
        for control, strategy in kinds
    ]
    print(write_result("depth_controls", {"counts": counts, "rows": rows}))


if __name__ == "__main__":
    main()
