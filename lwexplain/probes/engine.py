"""Run probes over stages, and bring what they return into tables."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    checked_results,
)
from lwexplain.results import EMBEDDING_COLUMNS, PREDICTION_COLUMNS, AttributionSet

# The order in which results stand in tables; probes that are not listed follow in alphabetical order.
ORDER = [
    "cost",
    "receptive_field",
    "head",
    "linear",
    "mlp",
    "knn",
    "ncm",
    "separability",
    "collapse",
    "geometry",
    "similarity",
    "pca",
    "umap",
    "attribution",
]

# What may come out of foreign code without ending the analysis: also its sys.exit(), but not Ctrl-C.
FAILURES = (Exception, SystemExit)


def default_probes() -> list[str]:
    """The built-in probes, and those that other installed packages offer (entry-point group lwexplain.probes)."""
    return [*built_in_probes(), *PROBES.third_party()]


def built_in_probes() -> list[str]:
    """The probes that come with lwexplain, in the order of their results."""
    return in_order([name for name in PROBES.names() if name not in PROBES.third_party()])


def in_order(names: Sequence[str]) -> list[str]:
    """Names of probes in the order in which their results stand in tables."""
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


@dataclass
class ProbeRun:
    """What the probes found: ``rows`` for ``results.metrics_frame``, tables, heat maps, and what went wrong.

    ``failures`` holds one ``{"probe", "stage", "error"}`` per probe and stage that raised or returned what does not
    fit (stage None where the probe takes all stages together); ``seconds`` the wall time per probe. ``sources``,
    ``embedding_probes`` and ``attribution_probes`` say which probe gave a source of predictions, an embedding
    method and an attribution method.
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


def run_probes(
    stages: Sequence[StageData],
    probes: Sequence[str | Probe | ProbeOfAllStages] | None = None,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ProbeRun:
    """Run each probe (a registered name or an object) on each stage; None = ``default_probes()``.

    A probe is foreign code: where it raises, calls sys.exit, returns what ``checked_results`` refuses or what an
    earlier probe has given already, that is recorded in ``failures`` and the others finish. Probes see the arrays
    of the stages read-only. ``on_progress(probe name, done, total)`` is called before each step (a probe on a
    stage, or on all together) and after the last. Raises UnknownNameError or ProbeError before anything runs: no
    stage, two stages of one name, an unknown probe, an object that is no probe, two probes of one name.
    """
    run = ProbeRun()
    chosen = resolve_probes(default_probes() if probes is None else probes, run.failures)
    stages = sorted(stages, key=lambda stage: stage.depth)
    names = [stage.name for stage in stages]
    if not stages or len(set(names)) < len(names):
        raise ProbeError(f"the stages are {names}; expected at least one, each with a name of its own")
    tables = _Tables(run)
    total = sum(1 if _takes_all(probe) else len(stages) for probe in chosen.values())
    done = 0

    def tell(name: str) -> None:
        nonlocal done
        if on_progress:
            on_progress(name, done, total)
        done += 1

    for name, probe in chosen.items():
        started = time.perf_counter()
        _run_probe(name, probe, stages, tables, tell)
        run.seconds[name] = time.perf_counter() - started
    for name in list(chosen)[-1:]:
        tell(name)
    tables.finish()
    return run


def merged(runs: Sequence[ProbeRun]) -> ProbeRun:
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
    depths = {row["stage"]: row["depth"] for row in whole.rows}
    for name in {name for run in runs for name in run.attributions}:
        sets = [run.attributions[name] for run in runs if name in run.attributions]
        whole.attributions[name] = _joined(sets, depths)
    return whole


def _by_depth(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("depth", kind="stable", ignore_index=True)


def _joined(sets: Sequence[AttributionSet], depths: Mapping[str, int]) -> AttributionSet:
    stages = [stage for item in sets for stage in item.stages]
    order = sorted(range(len(stages)), key=lambda place: depths.get(stages[place], place))
    return AttributionSet(
        sets[0].method,
        [stages[place] for place in order],
        np.concatenate([item.maps for item in sets])[order],
        np.concatenate([item.targets for item in sets])[order],
        [[valid for item in sets for valid in item.valid][place] for place in order],
        [[note for item in sets for note in item.notes][place] for place in order],
    )


def resolve_probes(
    probes: Sequence[str | Probe | ProbeOfAllStages], failures: list[dict[str, str | None]]
) -> dict[str, Any]:
    """Probe objects by name; one from an installed package that is of no use is a failure like any other."""
    if isinstance(probes, str) or not isinstance(probes, Sequence):
        raise ProbeError(f"probes is {probes!r}; expected a list of names or probe objects")
    chosen: dict[str, Any] = {}
    installed: dict[str, str] = {}  # name of a chosen probe -> the name under which a package offers it
    for probe in probes:
        offered = probe if isinstance(probe, str) and probe in PROBES.third_party() else None
        try:
            made = PROBES.create(probe) if isinstance(probe, str) else probe
            name = _name_of(made)
            if name in chosen:
                clash = ProbeError(f"two probes are called {name!r}; give one of them another name")
                if offered or name not in installed:
                    raise clash
                failures.append(_failure(installed.pop(name), None, clash))
                del chosen[name]
        except FAILURES as error:
            if not offered:
                raise
            failures.append(_failure(offered, None, error))
            continue
        chosen[name] = made
        if offered:
            installed[name] = offered
    return chosen


def _name_of(probe: Any) -> str:
    """The name of a probe object; raises ProbeError where it is none."""
    if isinstance(probe, type):
        raise ProbeError(f"{probe.__name__} is a class; pass an instance: {probe.__name__}()")
    name = getattr(probe, "name", None)
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ProbeError(f"{probe!r} is no probe: it has no name (a non-empty string of printable characters)")
    if not callable(getattr(probe, "measure", None)) and not _takes_all(probe):
        raise ProbeError(f"probe {name!r} has neither a method measure(stage) nor measure_all(stages)")
    return str(name)


def _run_probe(
    name: str, probe: Any, stages: Sequence[StageData], tables: "_Tables", tell: Callable[[str], None]
) -> None:
    """Measure, check and file stage by stage; whatever is wrong becomes a failure, and nothing of it is filed."""
    failures = tables.run.failures
    together: dict[str, Any] | None = None
    if _takes_all(probe):
        tell(name)
        try:
            together = _measure_all(probe, stages)
        except FAILURES as error:
            failures.append(_failure(name, None, error))
            return
    for stage in stages:
        if together is None:
            tell(name)
        elif stage.name not in together:
            continue
        try:
            returned = probe.measure(_read_only(stage)) if together is None else together[stage.name]
            if isinstance(returned, Exception):  # of a probe of all stages that one of them is of no use to
                raise returned
            tables.add(name, stage, checked_results(stage, returned))
        except FAILURES as error:
            failures.append(_failure(name, stage, error))


def _takes_all(probe: Any) -> bool:
    return callable(getattr(probe, "measure_all", None))


def _measure_all(probe: Any, stages: Sequence[StageData]) -> dict[str, Any]:
    returned = probe.measure_all([_read_only(stage) for stage in stages])
    if not isinstance(returned, Mapping):
        raise ProbeError(f"measure_all returned {type(returned).__name__}; expected a dict of stage name to results")
    found = dict(returned)
    strangers = [str(name) for name in found if name not in {stage.name for stage in stages}]
    if strangers:
        raise ProbeError(f"measure_all returned results for unknown stages: {', '.join(strangers)}")
    return found


def _read_only(stage: StageData) -> StageData:
    """The stage as one probe sees it: what it changes, the others do not see. Arrays are views, not copies.

    ``memo`` stays shared, for that is its purpose.
    """

    def views(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {split: _read_only_view(array) for split, array in arrays.items()}

    return replace(
        stage,
        features=views(stage.features),
        labels=views(stage.labels),
        logits=views(stage.logits),
        classes=list(stage.classes),
        images=None if stage.images is None else stage.images.detach().clone(),  # tensors cannot be read-only
        image_labels=None if stage.image_labels is None else _read_only_view(stage.image_labels),
    )


def _read_only_view(array: Any) -> np.ndarray:
    view = np.asanyarray(array).view()
    view.setflags(write=False)
    return view


def _failure(probe: str, stage: StageData | None, error: BaseException) -> dict[str, str | None]:
    try:
        text = " ".join(str(error).split()).encode("utf-8", "replace").decode()
    except FAILURES:
        text = ""
    return {
        "probe": probe,
        "stage": None if stage is None else stage.name,
        "error": f"{type(error).__name__}: {text}" if text else type(error).__name__,
    }


class _Tables:
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
