"""All training strategies, and several heads and losses, under one recipe on Fashion-MNIST, width-16 ResNet-18.

    python tests/benchmarks/strategies.py --out runs/strategies --jobs 2                     # results/strategies.json
    python tests/benchmarks/strategies.py --part heads_and_losses --out runs/strategies      # its own result file

Three seeds of every row, `--images` training images and `--epochs` epochs (for greedy: of each stage). Each run has one
thread, `--jobs` of them go side by side, so seconds are those of a busy machine; the ratios that matter are measured
alone by training_speed.py. Runs that are done are kept, a second call goes on.
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from result_file import write_result

from lwexplain.config import load_config
from lwexplain.run import Run
from lwexplain.study import Experiment, finished_run, run_study

ROOT = Path(__file__).parents[2]
PROBES = ("head", "linear")

BP = {"strategy": "bp"}
GREEDY = {"strategy": "greedy", "head": "mlp_sr"}
DECOUPLED = {"strategy": "decoupled", "head": "mlp_sr"}
SLIM = {"model.name": "slim_resnet18"}

ROWS: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("bp", "bp", BP, {}),
    ("greedy", "greedy, mlp_sr heads", GREEDY, {}),
    ("decoupled", "decoupled, mlp_sr heads", DECOUPLED, {}),
    ("decoupled_auglocal", "decoupled, auglocal heads", {"strategy": "decoupled", "head": "auglocal"}, {}),
    ("slim_bp", "slim ResNet-18: bp", BP, SLIM),
    ("slim_greedy", "slim ResNet-18: greedy, mlp_sr heads", GREEDY, SLIM),
    ("slim_decoupled", "slim ResNet-18: decoupled, mlp_sr heads", DECOUPLED, SLIM),
    ("greedy_auto", "greedy, mlp_sr heads, stop auto", GREEDY | {"stop": "auto"}, {}),
    ("random_labels", "random labels: greedy, stop auto", GREEDY | {"stop": "auto"}, {"data.label_noise": 1.0}),
    ("bp_checkpointing", "bp, gradient checkpointing", BP | {"gradient_checkpointing": True}, {}),
    ("bp_accumulation", "bp, accumulation in 4 parts", BP | {"accumulate": 4}, {}),
    ("deep_supervision", "deep supervision, mlp_sr heads", {"strategy": "deep_supervision", "head": "mlp_sr"}, {}),
)  # fmt: skip

HEADS_AND_LOSSES: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
    ("bp", "bp", BP, {}),
    ("decoupled_4", "decoupled in 4 stages of equal activations, mlp_sr heads", DECOUPLED,
     {"model.stages": 4, "model.balance": "activations"}),
    ("greedy_linear", "greedy, linear heads", {"strategy": "greedy"}, {}),
    ("decoupled_linear", "decoupled, linear heads", {"strategy": "decoupled"}, {}),
    ("decoupled_predsim", "decoupled, mlp_sr heads, predsim", DECOUPLED | {"loss": "predsim"}, {}),
    ("decoupled_infopro", "decoupled, mlp_sr heads, infopro", DECOUPLED | {"loss": "infopro"}, {}),
    ("decoupled_separability", "decoupled, mlp_sr heads, separability", DECOUPLED | {"loss": "separability"}, {}),
    ("decoupled_ff", "decoupled, mlp_sr heads, forward_forward", DECOUPLED | {"loss": "forward_forward"}, {}),
)  # fmt: skip

PARTS = {"strategies": ROWS, "heads_and_losses": HEADS_AND_LOSSES}


def experiments(part: str, images: int, epochs: int) -> list[Experiment]:
    """The rows of a table, all of them configs/fashion_mnist_bp.yaml but for what their names say."""
    common = {"data.train_size": images, "training.epochs": epochs, "training.prefix_views": 4}
    found = []
    for name, title, training, others in PARTS[part]:
        overrides = common | {f"training.{key}": value for key, value in training.items()} | others
        config = load_config(ROOT / "configs" / "fashion_mnist_bp.yaml", overrides)
        found.append(Experiment(name, title, config.model_dump(mode="json")))
    return found


def run_one(task: tuple[Experiment, int], out: Path) -> str:
    """Train and analyze one seed of one row, in a process of its own."""
    experiment, seed = task
    run = finished_run(experiment, seed, out, probes=PROBES, say=partial(print, flush=True))
    return f"{experiment.name} {seed}: {run.manifest['seconds']} s"


def stopping(out: Path, seeds: int) -> list[dict[str, Any]]:
    """What ``training.stop=auto`` saves and loses against training all stages, a row a seed.

    Time saved: the share of the training seconds of all stages, in the run that trained them all, that lies in the
    stages that the stopped run left out; and that of the whole seconds of the two runs. Loss: the best val accuracy
    over the depths of each run, and that of the last depths.
    """
    rows = []
    for seed in range(seeds):
        whole, stopped = (Run.open(out / name / f"seed_{seed}") for name in ("greedy", "greedy_auto"))
        random = Run.open(out / "random_labels" / f"seed_{seed}")
        seconds = list(whole.manifest["costs"]["seconds_by_phase"].values())
        depth = stopped.manifest["trained_depth"]
        curves = [val_accuracies(run) for run in (whole, stopped)]
        rows.append(
            {
                "seed": seed,
                "stopped_after": depth,
                "reason": stopped.manifest["stopped"],
                "stages": len(seconds),
                "saved_of_stage_seconds": sum(seconds[depth:]) / sum(seconds),
                "saved_of_all_seconds": 1 - stopped.manifest["seconds"] / whole.manifest["seconds"],
                "val_accuracy_all_stages": curves[0],
                "lost_at_best_depth": max(curves[0]) - max(curves[1]),
                "lost_at_last_depth": curves[0][-1] - curves[1][-1],
                "random_labels_stopped_after": random.manifest["trained_depth"],
                "random_labels_reason": random.manifest["stopped"],
            }
        )
    return rows


def val_accuracies(run: Run) -> list[float]:
    """Val accuracy of each depth after its last epoch."""
    last = {event["depth"]: event["val_accuracy"] for event in run.read_events() if event["event"] == "epoch"}
    return [last[depth] for depth in sorted(last)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), default="strategies")
    parser.add_argument("--out", type=Path, default=Path("runs/strategies"))
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="comma-separated rows; no result file is written then")
    options = parser.parse_args()
    chosen = experiments(options.part, options.images, options.epochs)
    if options.only:
        chosen = [experiment for experiment in chosen if experiment.name in options.only.split(",")]
    tasks = [(experiment, seed) for experiment in chosen for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in pool.map(partial(run_one, out=options.out), tasks):
            print(done, flush=True)
    rows = run_study(chosen, range(options.seeds), options.out, probes=PROBES, say=print)
    if not options.only:
        settings = {"images": options.images, "epochs": options.epochs, "jobs": options.jobs, "threads_a_run": 1}
        found: dict[str, Any] = {"settings": settings, "rows": rows}
        if options.part == "strategies":
            found["stopping"] = stopping(options.out, options.seeds)
        print(write_result(options.part, found))


if __name__ == "__main__":
    main()
