"""Run the probes one after another; each is done once it is kept, and several processes share the stages."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lwexplain.analysis.cores import Cores
from lwexplain.analysis.parts import Part, PartStore
from lwexplain.probes.base import PROBES, Probe, ProbeOfAllStages, StageData
from lwexplain.probes.engine import FAILURES, resolve_probes, run_probes
from lwexplain.probes.hooks import ProbeHooks, name_of
from lwexplain.probes.linear.fits import FITS, fits_of, remember_fits
from lwexplain.probes.moments import share_moments
from lwexplain.probes.tables import ProbeRun, merge_runs
from lwexplain.processes import World

Tell = Callable[[str, int, int], None]


def measure(
    stages: Sequence[StageData],
    probes: Sequence[str | Probe | ProbeOfAllStages],
    *,
    store: PartStore | None = None,
    world: World | None = None,
    cores: Cores | None = None,
    tell: Tell | None = None,
) -> list[Part]:
    """The parts of ``probes``: from ``store`` where they were made with the same settings before, else measured.

    ``tell(probe name, done, total)`` hears of each step, before which ``cores`` are shared. Of several processes every
    one calls this alike and holds all ``stages``: probes that see one stage at a time share the stages out, those that
    are ``collective`` run in all, the others in the first, which also keeps the parts.
    """
    world = world or World()
    unusable: list[dict[str, str | None]] = []
    chosen = resolve_probes(probes, unusable)
    parts = {name: part for name, probe in chosen.items() if (part := _kept(store, name, probe)) is not None}
    for part in parts.values():
        remember_fits(stages, part.extra.get(FITS))
    wanted = {name: probe for name, probe in chosen.items() if name not in parts}
    if wanted and not world.is_alone:
        share_moments(stages, world)
    begun = not world.is_main
    for done, (name, probe) in enumerate(_quiet_first(wanted).items()):
        if tell:
            tell(name, done, len(wanted))
        if not begun and not ProbeHooks(probe).needs_quiet:
            _begin(wanted, stages)
            begun = True
        if cores:
            cores.share()
        found = _run(name, probe, stages, world)
        part = Part(name, settings_of(probe), found, ProbeHooks(probe).order)
        if fits := fits_of(stages, name):
            part.extra[FITS] = fits
        with world.first_alone():
            if store is not None and world.is_main:
                store.save(part)
        parts[name] = part
    if tell:
        tell("", len(wanted), len(wanted))
    if unusable:  # probes of installed packages that cannot even be made
        for failure in unusable:
            name = str(failure["probe"])
            parts[name] = Part(name, None, ProbeRun(failures=[failure], seconds={name: 0.0}))
    return list(parts.values())


def settings_of(probe: Any) -> dict[str, Any] | None:
    """What decides what a probe finds, as plain values; None where it cannot be known (see ``ProbeDefaults.settings``).

    The class belongs to it, and of a probe that an installed package offers the version of that package.
    """
    hooks, kind = ProbeHooks(probe), type(probe)
    origin = PROBES.origin(hooks.name)
    if (own := hooks.settings) is not None:
        values = dict(own)
    elif kind.__module__.partition(".")[0] == __name__.partition(".")[0] or (origin and origin[1] is kind):
        values = {name: value for name, value in vars(probe).items() if not name.startswith("_")}
    else:
        return None
    try:
        plain = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError):
        return None
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "from": origin[0] if origin else None, "values": plain}


def start_probes(probes: Sequence[str | Probe], store: PartStore) -> list[Any]:
    """The same probes, built-in ones as objects. Those whose own process takes long to start start it now, unless what
    they would find is in ``store``."""
    made = [
        PROBES.create(probe) if isinstance(probe, str) and PROBES.origin(probe) is None else probe for probe in probes
    ]
    for probe in made:
        if isinstance(probe, str):
            continue
        with contextlib.suppress(*FAILURES):  # said when the probe itself runs
            if _kept(store, name_of(probe), probe) is None:
                ProbeHooks(probe).prepare()
    return made


def is_lasting(part: Part) -> bool:
    """Whether the probe of this name, with the settings it has by default, would find the same again."""
    if part.settings is None or part.found.failures or part.probe not in PROBES:
        return False
    try:
        return settings_of(PROBES.create(part.probe)) == part.settings
    except FAILURES:
        return False


def _kept(store: PartStore | None, name: str, probe: Any) -> Part | None:
    """The part of an earlier analysis with the same settings and without failures."""
    settings = settings_of(probe)
    if store is None or settings is None or store.settings(name) != settings:
        return None
    return store.load(name)


def _quiet_first(probes: Mapping[str, Any]) -> dict[str, Any]:
    """Probes that read the clock come first, before anything runs beside them."""
    return dict(sorted(probes.items(), key=lambda item: not ProbeHooks(item[1]).needs_quiet))


def _begin(probes: Mapping[str, Any], stages: Sequence[StageData]) -> None:
    """Let probes that work in a process of their own start it, so that it runs beside the others."""
    for probe in probes.values():
        with contextlib.suppress(*FAILURES):  # said when the probe itself runs
            ProbeHooks(probe).begin(stages)


def _run(name: str, probe: Any, stages: Sequence[StageData], world: World) -> ProbeRun:
    hooks = ProbeHooks(probe)
    if world.is_alone or hooks.collective:
        return run_probes(stages, [probe])
    mine = [stage for place, stage in enumerate(stages) if place % world.size == world.rank]
    if hooks.measures_all:
        mine = list(stages) if world.is_main else []
    found = run_probes(mine, [probe]) if mine else ProbeRun(seconds={name: 0.0})
    return merge_runs(world.gather_objects(found))
