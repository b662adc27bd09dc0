"""The oracle of depth advice: every task retrained at every depth, beside the measurements of its full-depth network.

    python tests/benchmarks/depth_oracle.py --out runs/depth_oracle --jobs 2      # results/depth_oracle/TASK.json

Fashion-MNIST is found where its Debian package puts it; the environment variable CIFAR10_JPEG names the folder with the
JPEG copy of CIFAR-10.

A unit of work is one task with one seed, in a process with one thread: the network of full depth is trained and
analyzed; under global back-propagation it is then trained anew at every smaller depth with the same recipe, while one
layer-wise run gives every depth at once. What is done is kept, a second call goes on; ``--write`` only writes the
result files of the tasks whose seeds are all done. The files hold numbers only: accuracies, seconds and the
measurements of the full-depth network, from which ``depth_scores.py`` scores the advice without any training.
"""

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from depth_tasks import TASKS, Task
from result_file import write_result

import lwexplain as lw
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits
from lwexplain.data.load import load_data
from lwexplain.results import is_analyzed, read_metrics
from lwexplain.run import Run
from lwexplain.run.files import atomic_path
from lwexplain.table import TableInfo
from lwexplain.training.trained import open_trained

PROBES = ("head", "linear", "knn", "ncm", "separability", "geometry", "collapse")
MAX_SAMPLES = 5000
LEFT_OUT = ("latency_seconds",)
"""Metrics that a loaded machine makes worthless."""


def run_unit(task: Task, seed: int, out: Path) -> str:
    """Train, analyze and retrain one task with one seed; ``out/TASK/seed_K.json`` grows depth by depth."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    folder = out / task.name
    path = folder / f"seed_{seed}.json"
    unit: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"seed": seed, "retrained": []}
    if unit.get("done"):
        return f"{task.name} {seed}: kept"
    whole = trained(task, seed, None, folder / f"seed_{seed}")
    config = task.config(seed)
    data = load_data(config.data, config.seed)
    if not is_analyzed(whole):
        lw.analyze(whole, list(PROBES), max_samples=MAX_SAMPLES, quiet=True)
    table = read_metrics(whole)
    unit["evidence"] = compact(table)
    depths = len(TableInfo.of(table).stages)
    if task.strategy == "bp":
        done = {row["depth"] for row in unit["retrained"]}
        for depth in range(depths, 0, -1):
            if depth not in done:
                run = whole if depth == depths else trained(task, seed, depth, folder / f"seed_{seed}_depth_{depth}")
                [row] = accuracies(run, data, [depth])
                unit["retrained"].append(row | {"seconds": run.manifest["seconds"]})
                save(path, unit)
    else:
        phases = list(whole.manifest["costs"]["seconds_by_phase"].values())
        rows = accuracies(whole, data, list(range(1, depths + 1)))
        unit["retrained"] = [row | {"seconds": seconds} for row, seconds in zip(rows, phases, strict=True)]
    unit["retrained"].sort(key=lambda row: row["depth"])
    save(path, unit | {"done": True})
    return f"{task.name} {seed}: {time.perf_counter() - started:.0f} s"


def trained(task: Task, seed: int, depth: int | None, path: Path) -> Run:
    return lw.train(task.config(seed, depth), run_dir=path, resume=path.exists(), quiet=True)


def accuracies(run: Run, data: DataSplits, depths: list[int]) -> list[dict[str, Any]]:
    """Accuracy on val and test of the network cut at each of ``depths``, with its own head."""
    model = open_trained(run, "cpu").model
    rows: list[dict[str, Any]] = [{"depth": depth} for depth in depths]
    for split in ("val", "test"):
        images = getattr(data, split)
        hits = torch.zeros(len(depths), dtype=torch.int64)
        with torch.inference_mode():
            for x, labels, _ in Batches(images, 256, mean=data.mean, std=data.std, seed=0, channels_last=True):
                state, reached = x, 0
                for position, depth in enumerate(depths):
                    state, reached = model.run_stages(state, reached, depth), depth
                    hits[position] += (model.classify(state, depth).argmax(1) == labels).sum()
        for row, count in zip(rows, hits.tolist(), strict=True):
            row[f"{split}_accuracy"] = count / len(images)
            row[f"n_{split}"] = len(images)
    return rows


def compact(table: pd.DataFrame) -> dict[str, Any]:
    """The rows of an analysis that belong to no single class, as ``{metric: {split: {value, low, high, n}}}``.

    Lists hold a number a stage, None where there is none.
    """
    stages = TableInfo.of(table).stages
    rows = table[table["class"].isna() & ~table["metric"].isin(LEFT_OUT)]
    metrics: dict[str, Any] = {}
    for (metric, split), part in rows.groupby(["metric", "split"]):
        by_depth = part.drop_duplicates("depth").set_index("depth")
        found: dict[str, Any] = {}
        for column in ("value", "low", "high"):
            values = [by_depth[column].get(depth) for depth in range(1, len(stages) + 1)]
            if any(value is not None and pd.notna(value) for value in values):
                found[column] = [None if value is None or pd.isna(value) else float(f"{value:.6g}") for value in values]
        counts = by_depth["n"].dropna()
        if len(counts):
            found["n"] = int(counts.iloc[0])
        if found:
            metrics.setdefault(str(metric), {})[str(split)] = found
    kept = ("stages", "classes", "strategy", "chance", "input_shape", "patterns")
    return {"metrics": metrics, **{key: getattr(TableInfo.of(table), key) for key in kept}}


def save(path: Path, unit: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(unit))


def write(task: Task, out: Path) -> str | None:
    """The result file of a task, once all its seeds are done."""
    paths = [out / task.name / f"seed_{seed}.json" for seed in range(task.seeds)]
    units = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not all(unit.get("done") for unit in units) or len(units) < task.seeds:
        return None
    config = task.config(0).model_dump(mode="json")
    for key in ("root", "download", "workers", "resident"):
        config["data"].pop(key)
    about = {"name": task.name, "title": task.title, "strategy": task.strategy, "control": task.control}
    seeds = [{key: unit[key] for key in ("seed", "retrained", "evidence")} for unit in units]
    content = {"task": about | {"config": config}, "seeds": seeds}
    return str(write_result(f"depth_oracle/{task.name}", content, indent=None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/depth_oracle"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="comma-separated tasks")
    parser.add_argument("--write", action="store_true", help="train nothing, write the result files of what is done")
    options = parser.parse_args()
    chosen = [task for task in TASKS if not options.only or task.name in options.only.split(",")]
    if not options.write:
        units = [(task, seed) for seed in range(max(t.seeds for t in chosen)) for task in chosen if seed < task.seeds]
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(run_unit, task, seed, options.out) for task, seed in units]):
                print(future.result(), flush=True)
    for task in chosen:
        print(write(task, options.out) or f"{task.name}: seeds missing", flush=True)


if __name__ == "__main__":
    main()
