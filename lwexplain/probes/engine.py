"""Run probes over stages, and bring what they return into tables."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lwexplain.arguments import shown
from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, Probe, ProbeDefaults, ProbeOfAllStages, StageData
from lwexplain.probes.hooks import ProbeHooks, name_of
from lwexplain.probes.returned import check_results
from lwexplain.probes.tables import ProbeRun, Tables

ALWAYS = ("cost", "receptive_field", "sample_depth")
"""What every analysis measures, whatever is asked for."""

FAILURES = (Exception, SystemExit)
"""What may come out of foreign code without ending the analysis: also its sys.exit(), but not Ctrl-C."""


def default_probes() -> list[str]:
    """The built-in probes, and those that other installed packages offer (entry-point group lwexplain.probes)."""
    return [*built_in_probes(), *PROBES.third_party()]


def built_in_probes() -> list[str]:
    """The probes that come with lwexplain, in the order of their results."""
    own = [name for name in PROBES.names() if name not in PROBES.third_party()]
    return sorted(own, key=lambda name: (order_of(name), name))


def order_of(name: str) -> int:
    """The ``order`` that the registered probe of this name declares; the usual one where there is none."""
    return ProbeHooks(PROBES.get(name)).order if name in PROBES else ProbeDefaults.order


def run_probes(
    stages: Sequence[StageData],
    probes: Sequence[str | Probe | ProbeOfAllStages] | None = None,
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ProbeRun:
    """Run each probe (a registered name or an object) on each stage; None = ``default_probes()``.

    A probe is foreign code: where it raises, calls sys.exit, returns what ``check_results`` refuses or what an
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
    tables = Tables(run)
    total = sum(1 if ProbeHooks(probe).measures_all else len(stages) for probe in chosen.values())
    done = 0

    def tell(name: str) -> None:
        nonlocal done
        if on_progress:
            on_progress(name, done, total)
        done += 1

    for name, probe in chosen.items():
        started = time.perf_counter()
        _run_probe(name, probe, stages, tables, tell)
        try:
            tables.declare(name, ProbeHooks(probe).metrics)
        except FAILURES as error:
            run.failures.append(_failure(name, None, error))
        run.seconds[name] = time.perf_counter() - started
    for name in list(chosen)[-1:]:
        tell(name)
    tables.finish()
    return run


def resolve_probes(
    probes: Sequence[str | Probe | ProbeOfAllStages], failures: list[dict[str, str | None]]
) -> dict[str, Any]:
    """Probe objects by name; one from an installed package that is of no use is a failure like any other."""
    if isinstance(probes, str) or not isinstance(probes, Sequence):
        raise ProbeError(f"probes is {shown(probes)}; expected a list of names or probe objects")
    chosen: dict[str, Any] = {}
    installed: dict[str, str] = {}  # name of a chosen probe -> the name under which a package offers it
    for probe in probes:
        offered = probe if isinstance(probe, str) and probe in PROBES.third_party() else None
        try:
            made = PROBES.create(probe) if isinstance(probe, str) else probe
            name = name_of(made)
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


def _run_probe(name: str, probe: Any, stages: Sequence[StageData], tables: Tables, tell: Callable[[str], None]) -> None:
    """Measure, check and file stage by stage; whatever is wrong becomes a failure, and nothing of it is filed."""
    failures = tables.run.failures
    together: dict[str, Any] | None = None
    if ProbeHooks(probe).measures_all:
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
            tables.add(name, stage, check_results(stage, returned))
        except FAILURES as error:
            failures.append(_failure(name, stage, error))


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
