"""A study: experiments with several seeds each, trained, analyzed and summed up in one table; what is done is kept."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lwexplain import api
from lwexplain.advice.curve import ACCURACY_SOURCES
from lwexplain.config import load_config
from lwexplain.results import is_analyzed, read_metrics
from lwexplain.run import Run
from lwexplain.run.files import atomic_path
from lwexplain.table import TableInfo, value_at

TABLE = "table.json"
ADVICE = (
    "verdict", "stage", "depth", "expected_accuracy", "full_accuracy", "own_head_accuracy", "own_probe_accuracy",
    "params_ratio", "flops_ratio", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One row of the table: a configuration that is trained once a seed."""

    name: str
    title: str
    config: dict[str, Any]


def run_study(
    experiments: Sequence[Experiment],
    seeds: Sequence[int],
    out: Path,
    *,
    probes: Sequence[str] = ("head", "linear", "separability"),
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train and analyze every experiment with every seed under ``out`` and return the rows of the table.

    Seeds go around outside, so that every experiment has a first result early. A run that is finished is not done
    again, one that was interrupted goes on. ``out/table.json`` is brought up to date after each run. Raises what
    ``lw.train`` and ``lw.analyze`` raise; a ConfigError where a run was made with another configuration.
    """
    runs: dict[str, dict[int, Run]] = {experiment.name: {} for experiment in experiments}
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for experiment in experiments:
            runs[experiment.name][seed] = finished_run(experiment, seed, out, probes=probes, say=say)
            rows = [summary(other, runs[other.name]) for other in experiments if runs[other.name]]
            with atomic_path(out / TABLE) as temporary:
                temporary.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return rows


def finished_run(
    experiment: Experiment, seed: int, out: Path, *, probes: Sequence[str], say: Callable[[str], None]
) -> Run:
    """The trained and analyzed run of one seed, made where it is missing."""
    path = out / experiment.name / f"seed_{seed}"
    if not _is_done(path):
        say(f"{experiment.title}, seed {seed}: {path}")
    run = api.train(load_config(experiment.config, {"seed": seed}), run_dir=path, resume=path.exists())
    if not is_analyzed(run):
        api.analyze(run, list(probes))
    return run


def summary(experiment: Experiment, runs: dict[int, Run]) -> dict[str, Any]:
    """One row: figures over the seeds as ``{"mean", "std", "values"}``, accuracies in [0, 1].

    ``test_accuracy`` and ``val_accuracy`` are those of the head at the deepest trained stage; ``by_depth`` holds the
    accuracy on test of each source (the stages' own heads, linear probes), the separability index on val and the
    parameters of the network cut there; ``advice`` the recommendation of each seed.
    """
    tables = {seed: read_metrics(run) for seed, run in runs.items()}
    advice = {seed: api.recommend(run) for seed, run in runs.items()}
    first = next(iter(runs.values()))
    return {
        "name": experiment.name,
        "title": experiment.title,
        "seeds": list(runs),
        "strategy": first.manifest["strategy"],
        "model": first.manifest["model"],
        "data": first.manifest["data"]["name"],
        "images": first.manifest["data"]["sizes"],
        "test_accuracy": spread(_last(table, "head_accuracy", "test") for table in tables.values()),
        "val_accuracy": spread(_last(table, "head_accuracy", "val") for table in tables.values()),
        "parameters": _last(next(iter(tables.values())), "parameters", "none"),
        "seconds": spread(float(run.manifest["seconds"]) for run in runs.values()),
        **{
            key: spread(float(run.manifest["costs"][key]) for run in runs.values())
            for key in ("activation_bytes", "peak_memory_bytes", "images_per_second", "parameters_trained")
        },
        "trained_depth": spread(float(run.manifest["trained_depth"]) for run in runs.values()),
        "stopped": [run.manifest["stopped"] for run in runs.values()],
        "by_depth": _by_depth(list(tables.values())),
        "advice": [{"seed": seed} | {key: getattr(found, key) for key in ADVICE} for seed, found in advice.items()],
    }


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for a single value) and the values."""
    found = list(values)
    return {
        "mean": statistics.fmean(found),
        "std": statistics.stdev(found) if len(found) > 1 else None,
        "values": found,
    }


def _by_depth(tables: list[pd.DataFrame]) -> list[dict[str, Any]]:
    """A row for each stage that was trained with every seed."""
    depth = min(len(TableInfo.of(table).stages) for table in tables)
    rows = []
    for number, stage in enumerate(TableInfo.of(tables[0]).stages[:depth], start=1):
        row: dict[str, Any] = {"depth": number, "stage": stage}
        for source in ACCURACY_SOURCES:
            values = [value_at(table, f"{source}_accuracy", "test", number) for table in tables]
            row[source] = None if None in values else spread(value for value in values if value is not None)
        separability = [value_at(table, "separability_index", "val", number) for table in tables]
        row["separability_index"] = None if None in separability else spread(v for v in separability if v is not None)
        row["parameters"] = value_at(tables[0], "parameters", "none", number)
        rows.append(row)
    return rows


def _last(table: pd.DataFrame, metric: str, split: str) -> float:
    value = value_at(table, metric, split, len(TableInfo.of(table).stages))
    assert value is not None, f"{metric} on {split} was not measured"
    return value


def _is_done(path: Path) -> bool:
    return path.exists() and is_analyzed(Run.open(path))
