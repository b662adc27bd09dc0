"""Run probes over stages, and bring what they return into tables."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.errors import ProbeError
from lwexplain.probes.base import (
    PROBES,
    Attribution,
    Embedding,
    Measurement,
    Predictions,
    Probe,
    Result,
    StageData,
    as_results,
)
from lwexplain.results import EMBEDDING_COLUMNS, PREDICTION_COLUMNS, AttributionSet

DEFAULT_PROBES = ["head", "linear", "knn", "ncm", "separability", "pca", "umap", "attribution"]


@dataclass
class ProbeRun:
    """What the probes found: ``rows`` for ``results.metrics_frame``, tables, heat maps, and what went wrong.

    ``failures`` holds one ``{"probe", "stage", "error"}`` per probe and stage that raised (stage None where
    the probe takes all stages together); ``seconds`` the wall time per probe.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    predictions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PREDICTION_COLUMNS))
    embeddings: dict[str, pd.DataFrame] = field(default_factory=dict)
    attributions: dict[str, AttributionSet] = field(default_factory=dict)
    failures: list[dict[str, str | None]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def run_probes(
    stages: Sequence[StageData],
    probes: Sequence[str | Probe] = tuple(DEFAULT_PROBES),
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ProbeRun:
    """Run each probe (a registered name or an object) on each stage.

    A probe that raises is recorded in ``failures`` and the others finish. ``on_progress(probe name, done,
    total)`` is called before each step. Raises UnknownNameError or ProbeError before anything runs: no
    stage, two stages of one name, an unknown probe, an object that is no probe, two probes of one name.
    """
    chosen = _resolve(probes)
    stages = sorted(stages, key=lambda stage: stage.depth)
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) < len(names):
        raise ProbeError(f"the stages are {names}; expected at least one, each with a name of its own")
    run = ProbeRun()
    predictions: list[pd.DataFrame] = []
    layouts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    maps: dict[str, dict[str, Attribution]] = defaultdict(dict)
    steps = [(probe, part) for probe in chosen for part in _parts(probe, stages)]
    for done, (probe, part) in enumerate(steps):
        if on_progress:
            on_progress(probe.name, done, len(steps))
        started = time.perf_counter()
        for stage, results in _attempt(probe, part, run.failures):
            try:
                tables = [_table(stage, item) for item in results]
            except Exception as error:
                run.failures.append(_failure(probe, stage, error))
                continue
            for item, table in zip(results, tables, strict=True):
                if isinstance(item, Measurement):
                    run.rows.append(_row(probe, stage, item))
                elif isinstance(item, Predictions):
                    predictions.append(table)
                elif isinstance(item, Embedding):
                    layouts[item.method].append(table)
                else:
                    maps[item.method][stage.name] = item
        run.seconds[probe.name] = run.seconds.get(probe.name, 0.0) + time.perf_counter() - started
    if on_progress:
        on_progress("", len(steps), len(steps))
    if predictions:
        run.predictions = pd.concat(predictions, ignore_index=True)
    run.embeddings = {method: pd.concat(parts, ignore_index=True) for method, parts in layouts.items()}
    for method, found in maps.items():
        _stack(method, {name: found[name] for name in names if name in found}, run)
    return run


def _resolve(probes: Sequence[str | Probe]) -> list[Any]:
    if isinstance(probes, str) or not isinstance(probes, Sequence):
        raise ProbeError(f"probes is {probes!r}; expected a list of names or probe objects")
    chosen: list[Any] = []
    for probe in probes:
        if isinstance(probe, str):
            probe = PROBES.create(probe)
        if isinstance(probe, type):
            raise ProbeError(f"{probe.__name__} is a class; pass an instance: {probe.__name__}()")
        name = getattr(probe, "name", None)
        if not isinstance(name, str) or not name:
            raise ProbeError(f"{probe!r} is no probe: it has no name (a non-empty string)")
        if not callable(getattr(probe, "measure", None)) and not callable(getattr(probe, "measure_all", None)):
            raise ProbeError(f"probe {name!r} has neither a method measure(stage) nor measure_all(stages)")
        if any(name == other.name for other in chosen):
            raise ProbeError(f"two probes are called {name!r}; give one of them another name")
        chosen.append(probe)
    return chosen


def _parts(probe: Any, stages: Sequence[StageData]) -> list[list[StageData]]:
    """What the probe is given step by step: all stages together, or one after the other."""
    together = callable(getattr(probe, "measure_all", None))
    return [list(stages)] if together else [[stage] for stage in stages]


def _attempt(
    probe: Any, part: list[StageData], failures: list[dict[str, str | None]]
) -> Iterator[tuple[StageData, list[Result]]]:
    together = callable(getattr(probe, "measure_all", None))
    try:
        if together:
            returned = probe.measure_all(part)
            if not isinstance(returned, Mapping):
                raise ProbeError(
                    f"measure_all returned {type(returned).__name__}; expected a dict of stage name to results"
                )
            strangers = [str(name) for name in returned if name not in {stage.name for stage in part}]
            if strangers:
                raise ProbeError(f"measure_all returned results for unknown stages: {', '.join(strangers)}")
        else:
            returned = {part[0].name: probe.measure(part[0])}
    except Exception as error:
        failures.append(_failure(probe, None if together else part[0], error))
        return
    for stage in part:
        if stage.name in returned:
            try:
                results = as_results(probe.name, returned[stage.name])
            except Exception as error:
                failures.append(_failure(probe, stage, error))
            else:
                yield stage, results


def _failure(probe: Any, stage: StageData | None, error: Exception) -> dict[str, str | None]:
    text = " ".join(str(error).split())
    return {
        "probe": probe.name,
        "stage": None if stage is None else stage.name,
        "error": f"{type(error).__name__}: {text}" if text else type(error).__name__,
    }


def _row(probe: Any, stage: StageData, item: Measurement) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "depth": stage.depth,
        "split": item.split,
        "metric": item.metric,
        "class": item.class_,
        "value": float(item.value),
        "low": None if item.low is None else float(item.low),
        "high": None if item.high is None else float(item.high),
        "n": None if item.n is None else int(item.n),
        "seed": stage.seed,
        "probe": probe.name,
        "note": "; ".join(note for note in (item.note, stage.note(item.split)) if note),
    }


def _table(stage: StageData, item: Result) -> pd.DataFrame | None:
    """The rows of predictions or of an embedding; raises ProbeError where they do not fit the split."""
    if isinstance(item, Attribution) and (
        np.ndim(item.maps) != 3 or np.shape(item.targets) != np.shape(item.maps)[:1]
    ):
        raise ProbeError(
            f"{item.method}: maps {np.shape(item.maps)} and targets {np.shape(item.targets)}; "
            "expected (M, H, W) and (M,)"
        )
    if not isinstance(item, (Predictions, Embedding)):
        return None
    if item.split not in stage.labels:
        raise ProbeError(f"results for split {item.split!r}, which the stage does not have")
    labels = np.asarray(stage.labels[item.split])
    if isinstance(item, Predictions):
        if np.shape(item.predicted) != labels.shape:
            raise ProbeError(f"{np.shape(item.predicted)} predictions for {len(labels)} {item.split} samples")
        columns = {"sample": np.arange(len(labels)), "source": item.source, "label": labels}
        columns |= {"predicted": np.asarray(item.predicted, dtype=np.int64)}
        order = PREDICTION_COLUMNS
    else:
        samples, points = np.asarray(item.samples), np.asarray(item.coordinates)
        if points.shape != (len(samples), 2):
            raise ProbeError(f"{item.method}: coordinates {points.shape}; expected ({len(samples)}, 2)")
        columns = {"sample": samples, "label": labels[samples], "x": points[:, 0], "y": points[:, 1]}
        order = EMBEDDING_COLUMNS
    columns |= {"split": item.split, "stage": stage.name, "depth": stage.depth}
    return pd.DataFrame(columns)[order]


def _stack(method: str, found: dict[str, Attribution], run: ProbeRun) -> None:
    items = list(found.values())
    if len({item.maps.shape for item in items}) > 1:
        shapes = {name: item.maps.shape for name, item in found.items()}
        run.failures.append(
            {"probe": method, "stage": None, "error": f"ProbeError: maps differ in shape by stage: {shapes}"}
        )
        return
    run.attributions[method] = AttributionSet(
        method,
        list(found),
        np.stack([np.asarray(item.maps, dtype=np.float32) for item in items]),
        np.stack([np.asarray(item.targets, dtype=np.int64) for item in items]),
        [bool(item.valid) for item in items],
        [item.note for item in items],
    )
