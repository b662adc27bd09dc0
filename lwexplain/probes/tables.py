"""What probes found, in tables: rows, predictions, layouts and heat maps, nothing of it given twice."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.errors import ProbeError
from lwexplain.metrics import Metric
from lwexplain.probes.base import Attribution, Embedding, Measurement, Predictions, Result, StageData
from lwexplain.results import EMBEDDING_COLUMNS, PREDICTION_COLUMNS, AttributionSet


@dataclass
class ProbeRun:
    """What the probes found: ``rows`` for ``results.metrics_frame``, tables, heat maps, and what went wrong.

    ``failures`` holds one ``{"probe", "stage", "error"}`` per probe and stage that raised or returned what does not
    fit (stage None where the probe takes all stages together); ``seconds`` the wall time per probe. ``sources``,
    ``embedding_probes`` and ``attribution_probes`` say which probe gave a source of predictions, an embedding
    method and an attribution method. ``metrics`` are the declarations of those metrics in ``rows`` that have one.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    predictions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PREDICTION_COLUMNS))
    embeddings: dict[str, pd.DataFrame] = field(default_factory=dict)
    attributions: dict[str, AttributionSet] = field(default_factory=dict)
    failures: list[dict[str, str | None]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    embedding_probes: dict[str, str] = field(default_factory=dict)
    attribution_probes: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)


def merge_runs(runs: Sequence[ProbeRun]) -> ProbeRun:
    """What several processes found with the same probes on stages of their own, as one, in the order of the depth."""
    whole = ProbeRun()
    whole.rows = sorted((row for run in runs for row in run.rows), key=lambda row: row["depth"])
    whole.failures = [failure for run in runs for failure in run.failures]
    tables = [run.predictions for run in runs if len(run.predictions)]
    if tables:
        whole.predictions = _by_depth(pd.concat(tables, ignore_index=True))
    for run in runs:
        for name, frame in run.embeddings.items():
            parts = [whole.embeddings[name], frame] if name in whole.embeddings else [frame]
            whole.embeddings[name] = _by_depth(pd.concat(parts, ignore_index=True))
        for name, seconds in run.seconds.items():
            whole.seconds[name] = max(whole.seconds.get(name, 0.0), seconds)
        whole.sources |= run.sources
        whole.embedding_probes |= run.embedding_probes
        whole.attribution_probes |= run.attribution_probes
        whole.metrics |= run.metrics
    depths = {row["stage"]: row["depth"] for row in whole.rows}
    for name in {name for run in runs for name in run.attributions}:
        sets = [run.attributions[name] for run in runs if name in run.attributions]
        whole.attributions[name] = _join_attributions(sets, depths)
    return whole


def _by_depth(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("depth", kind="stable", ignore_index=True)


def _join_attributions(sets: Sequence[AttributionSet], depths: Mapping[str, int]) -> AttributionSet:
    stages = [stage for item in sets for stage in item.stages]
    order = sorted(range(len(stages)), key=lambda place: depths.get(stages[place], place))
    return AttributionSet(
        sets[0].method,
        [stages[place] for place in order],
        np.concatenate([item.maps for item in sets])[order],
        np.concatenate([item.targets for item in sets])[order],
        [[valid for item in sets for valid in item.valid][place] for place in order],
        [[note for item in sets for note in item.notes][place] for place in order],
        [[notes for item in sets for notes in item.image_notes][place] for place in order],
    )


class Tables:
    """Files checked results into ``run``, each kind in its table; nothing may be given twice."""

    def __init__(self, run: ProbeRun) -> None:
        self.run = run
        self.given: dict[tuple[str | None, ...], str] = {}
        self.predictions: list[pd.DataFrame] = []
        self.layouts: dict[str, list[pd.DataFrame]] = defaultdict(list)
        self.maps: dict[str, list[tuple[StageData, Attribution]]] = defaultdict(list)

    def add(self, probe: str, stage: StageData, results: Sequence[Result]) -> None:
        """File the results of one probe about one stage; raises ProbeError, before any is filed, where one of
        them was given before."""
        given: dict[tuple[str | None, ...], str] = {}
        for item in results:
            self._check_owner(probe, item)
            what, key = _identity(stage, item)
            giver = given.get(key) or self.given.get(key)
            if giver is not None:
                again = "this probe has" if giver == probe else f"probe {giver!r} has already"
                raise ProbeError(f"{what}: {again} given this{' twice' if giver == probe else ''}; choose another name")
            given[key] = probe
            if isinstance(item, Attribution):
                self._check_shape(stage, item)
        self.given |= given
        for item in results:
            if isinstance(item, Measurement):
                self.run.rows.append(_row(probe, stage, item))
                continue
            owners, name = self._owners(item)
            owners[name] = probe
            if isinstance(item, Predictions):
                self.predictions.append(_prediction_rows(stage, item))
            elif isinstance(item, Embedding):
                self.layouts[item.method].append(_embedding_rows(stage, item))
            else:
                self.maps[item.method].append((stage, item))

    def declare(self, probe: str, declared: Mapping[str, Metric]) -> None:
        """File what a probe declares of the metrics that it gave; what another one declared of the same stays."""
        given = {row["metric"] for row in self.run.rows if row["probe"] == probe}
        for name, metric in declared.items():
            if name in given:
                self.run.metrics.setdefault(name, metric)

    def finish(self) -> None:
        """Put the parts together, stages in the order of their depth."""
        if self.predictions:
            self.run.predictions = pd.concat(self.predictions, ignore_index=True)
        self.run.embeddings = {name: pd.concat(parts, ignore_index=True) for name, parts in self.layouts.items()}
        for method, found in self.maps.items():
            self.run.attributions[method] = AttributionSet(
                method,
                [stage.name for stage, _ in found],
                np.stack([item.maps for _, item in found]),
                np.stack([item.targets for _, item in found]),
                [item.valid for _, item in found],
                [item.note for _, item in found],
                [list(item.image_notes) for _, item in found],
            )

    def _owners(self, item: Predictions | Embedding | Attribution) -> tuple[dict[str, str], str]:
        if isinstance(item, Predictions):
            return self.run.sources, item.source
        owners = self.run.embedding_probes if isinstance(item, Embedding) else self.run.attribution_probes
        return owners, item.method

    def _check_owner(self, probe: str, item: Result) -> None:
        """A source of predictions, an embedding and an attribution method each come from one probe."""
        if isinstance(item, Measurement):
            return
        owners, name = self._owners(item)
        for other, owner in owners.items():  # names of files: some file systems do not tell PCA from pca
            if other.lower() == name.lower() and (owner != probe or other != name):
                what = {Predictions: "predictions", Embedding: "embedding"}.get(type(item), "attribution")
                raise ProbeError(f"{what} {name}: probe {owner!r} has already given {other}; choose another name")

    def _check_shape(self, stage: StageData, item: Attribution) -> None:
        for first, before in self.maps.get(item.method, [])[:1]:
            if before.maps.shape != item.maps.shape:
                shapes = f"{item.maps.shape} here, {before.maps.shape} at {first.name}"
                raise ProbeError(f"{item.method}: maps differ in shape by stage: {shapes}")


def _identity(stage: StageData, item: Result) -> tuple[str, tuple[str | None, ...]]:
    """What a result is, in words and as a key that no two results share."""
    if isinstance(item, Measurement):
        of_class = "" if item.class_ is None else f", class {item.class_}"
        what = f"{item.metric} on split {item.split}{of_class}"
        return what, ("metric", stage.name, item.metric, item.split, item.class_)
    if isinstance(item, Predictions):
        what = f"predictions {item.source} on split {item.split}"
        return what, ("predictions", stage.name, item.source, item.split)
    kind = "embedding" if isinstance(item, Embedding) else "attribution"
    return f"{kind} {item.method}", (kind, stage.name, item.method)


def _row(probe: str, stage: StageData, item: Measurement) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "depth": stage.depth,
        "split": item.split,
        "metric": item.metric,
        "class": item.class_,
        "value": item.value,
        "low": item.low,
        "high": item.high,
        "n": item.n,
        "seed": stage.seed,
        "probe": probe,
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
        "predicted": item.predicted,
    }
    return pd.DataFrame(columns)[PREDICTION_COLUMNS]


def _embedding_rows(stage: StageData, item: Embedding) -> pd.DataFrame:
    columns = {
        "stage": stage.name,
        "depth": stage.depth,
        "split": item.split,
        "sample": item.samples,
        "label": np.asarray(stage.labels[item.split])[item.samples],
        "x": item.coordinates[:, 0],
        "y": item.coordinates[:, 1],
    }
    return pd.DataFrame(columns)[EMBEDDING_COLUMNS]
