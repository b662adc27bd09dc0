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
    ProbeOfAllStages,
    Result,
    StageData,
    as_results,
)
from lwexplain.results import EMBEDDING_COLUMNS, PREDICTION_COLUMNS, AttributionSet

DEFAULT_PROBES = ["head", "linear", "knn", "ncm", "separability", "pca", "umap", "attribution"]


def default_probes() -> list[str]:
    """The built-in probes, and those that other installed packages offer (entry-point group lwexplain.probes)."""
    return [*DEFAULT_PROBES, *PROBES.third_party()]


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
    probes: Sequence[str | Probe | ProbeOfAllStages] | None = None,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ProbeRun:
    """Run each probe (a registered name or an object) on each stage; None = ``default_probes()``.

    A probe that raises is recorded in ``failures`` and the others finish. ``on_progress(probe name, done, total)``
    is called before each step (a probe on a stage, or on all together) and after the last. Raises
    UnknownNameError or ProbeError before anything runs: no stage, two stages of one name, an unknown probe, an
    object that is no probe, two probes of one name.
    """
    run = ProbeRun()
    chosen = _resolve(default_probes() if probes is None else probes, run.failures)
    stages = sorted(stages, key=lambda stage: stage.depth)
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) < len(names):
        raise ProbeError(f"the stages are {names}; expected at least one, each with a name of its own")
    predictions: list[pd.DataFrame] = []
    layouts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    maps: dict[str, dict[str, Attribution]] = defaultdict(dict)
    total = sum(1 if _takes_all(probe) else len(stages) for probe in chosen)
    done = 0

    def tell(probe: Any) -> None:
        nonlocal done
        if on_progress:
            on_progress(probe.name, done, total)
        done += 1

    for probe in chosen:
        started = time.perf_counter()
        for stage, results in _results_of(probe, stages, run.failures, tell):
            for item in results:
                if isinstance(item, Measurement):
                    run.rows.append(_row(probe, stage, item))
                elif isinstance(item, Predictions):
                    predictions.append(_prediction_rows(stage, item))
                elif isinstance(item, Embedding):
                    layouts[item.method].append(_embedding_rows(stage, item))
                else:
                    maps[item.method][stage.name] = item
        run.seconds[probe.name] = time.perf_counter() - started
    if chosen:
        tell(chosen[-1])
    if predictions:
        run.predictions = pd.concat(predictions, ignore_index=True)
    run.embeddings = {method: pd.concat(parts, ignore_index=True) for method, parts in layouts.items()}
    for method, found in maps.items():
        _stack(method, {name: found[name] for name in names if name in found}, run)
    return run


def _resolve(probes: Sequence[str | Probe | ProbeOfAllStages], failures: list[dict[str, str | None]]) -> list[Any]:
    if isinstance(probes, str) or not isinstance(probes, Sequence):
        raise ProbeError(f"probes is {probes!r}; expected a list of names or probe objects")
    chosen: list[Any] = []
    for probe in probes:
        if isinstance(probe, str):
            try:
                probe = PROBES.create(probe)
            except Exception as error:
                if probe not in PROBES.third_party():
                    raise
                failures.append({"probe": probe, "stage": None, "error": f"{type(error).__name__}: {error}"})
                continue
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


def _results_of(
    probe: Any,
    stages: Sequence[StageData],
    failures: list[dict[str, str | None]],
    tell: Callable[[Any], None],
) -> Iterator[tuple[StageData, list[Result]]]:
    """The checked results stage by stage; what raises, or does not fit its stage, becomes a failure."""
    together: Mapping[str, Any] | None = None
    if _takes_all(probe):
        tell(probe)
        try:
            together = _measure_all(probe, stages)
        except Exception as error:
            failures.append(_failure(probe, None, error))
            return
    for stage in stages:
        if together is None:
            tell(probe)
        elif stage.name not in together:
            continue
        try:
            results = as_results(probe.name, probe.measure(stage) if together is None else together[stage.name])
            for item in results:
                _check_fit(stage, item)
        except Exception as error:
            failures.append(_failure(probe, stage, error))
        else:
            yield stage, results


def _takes_all(probe: Any) -> bool:
    return callable(getattr(probe, "measure_all", None))


def _measure_all(probe: Any, stages: Sequence[StageData]) -> Mapping[str, Any]:
    returned = probe.measure_all(list(stages))
    if not isinstance(returned, Mapping):
        raise ProbeError(f"measure_all returned {type(returned).__name__}; expected a dict of stage name to results")
    strangers = [str(name) for name in returned if name not in {stage.name for stage in stages}]
    if strangers:
        raise ProbeError(f"measure_all returned results for unknown stages: {', '.join(strangers)}")
    return returned


def _check_fit(stage: StageData, item: Result) -> None:
    """Raise ProbeError where a result does not fit the split it is about."""
    if isinstance(item, Measurement):
        return
    if isinstance(item, Attribution):
        if np.ndim(item.maps) != 3 or np.shape(item.targets) != np.shape(item.maps)[:1]:
            shapes = f"maps {np.shape(item.maps)} and targets {np.shape(item.targets)}"
            raise ProbeError(f"{item.method}: {shapes}; expected (M, H, W) and (M,)")
        return
    if item.split not in stage.labels:
        raise ProbeError(f"results for split {item.split!r}, which the stage does not have")
    n = len(stage.labels[item.split])
    if isinstance(item, Predictions):
        if np.shape(item.predicted) != (n,):
            raise ProbeError(f"{np.shape(item.predicted)} predictions for {n} {item.split} samples")
        return
    if np.shape(item.coordinates) != (len(item.samples), 2):
        raise ProbeError(f"{item.method}: coordinates {np.shape(item.coordinates)}; expected ({len(item.samples)}, 2)")
    if len(item.samples) and not 0 <= np.min(item.samples) <= np.max(item.samples) < n:
        raise ProbeError(f"{item.method}: samples beyond the {n} of {item.split}")


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


def _prediction_rows(stage: StageData, item: Predictions) -> pd.DataFrame:
    labels = np.asarray(stage.labels[item.split])
    columns = {
        "split": item.split,
        "sample": np.arange(len(labels)),
        "stage": stage.name,
        "depth": stage.depth,
        "source": item.source,
        "label": labels,
        "predicted": np.asarray(item.predicted, dtype=np.int64),
    }
    return pd.DataFrame(columns)[PREDICTION_COLUMNS]


def _embedding_rows(stage: StageData, item: Embedding) -> pd.DataFrame:
    samples, points = np.asarray(item.samples), np.asarray(item.coordinates)
    columns = {
        "stage": stage.name,
        "depth": stage.depth,
        "split": item.split,
        "sample": samples,
        "label": np.asarray(stage.labels[item.split])[samples],
        "x": points[:, 0],
        "y": points[:, 1],
    }
    return pd.DataFrame(columns)[EMBEDDING_COLUMNS]


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
