"""The analysis of a run: features and results are kept in it, so that nothing is computed twice."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from lwexplain.analysis.adopted_subject import adopted_subject
from lwexplain.analysis.assembly import assemble_analysis
from lwexplain.analysis.cores import Cores, shared_cores
from lwexplain.analysis.measuring import is_lasting, measure, start_probes
from lwexplain.analysis.parts import Part, PartStore
from lwexplain.analysis.subject import Subject
from lwexplain.analysis.trained_subject import trained_subject
from lwexplain.memory import working_bytes
from lwexplain.probes.base import PROBES, Probe
from lwexplain.probes.engine import default_probes
from lwexplain.probes.hooks import name_as_asked
from lwexplain.processes import World
from lwexplain.progress import Progress
from lwexplain.results import Analysis, AnalysisKey, write_analysis
from lwexplain.run import Run
from lwexplain.training.trained import open_trained
from lwexplain.version import VERSION


def analyze_run(
    run: Run,
    probes: Sequence[str | Probe] | None,
    key: AnalysisKey,
    *,
    mem_limit: int | None = None,
    device: str | None = None,
    world: World | None = None,
    quiet: bool | None = None,
) -> Analysis:
    """Analyze a trained or adopted run and write the results into it; see ``lw.analyze``. ``probes`` None: all there
    are, of those that can be measured here. Of several processes one writes."""
    started = time.perf_counter()
    world = world or World()
    asked = list(default_probes()) if probes is None else list(probes)
    store = PartStore(run.files.within("analysis/parts"), key.to_dict())
    ready = start_probes(asked, store) if world.is_main else asked
    trained = None if run.is_adopted else open_trained(run, device)
    memory = working_bytes(mem_limit)
    with ExitStack() as stack:
        with world.first_alone():
            if world.is_main:
                stack.enter_context(run.lock("lwexplain analyze"))
        cores = stack.enter_context(shared_cores(ready))
        if trained is not None:
            subject = trained_subject(run, trained, key, memory, world, cores)
        else:
            named = [] if probes is None else [name_as_asked(probe) for probe in asked]
            subject = adopted_subject(run, key, memory, world, device=device, named=named)
            ready = [probe for probe in ready if name_as_asked(probe) not in subject.without]
        measured = _measure(subject, ready, store, world, cores, quiet)
        parts = [*_others(store, [*subject.parts, *measured]), *subject.parts, *measured]
        result = assemble_analysis(parts, subject.info, subject.stages)
        subject.add_pictures(result)
        result.summary |= _summary(key, subject, parts, world)
        result.summary |= {"seconds": round(time.perf_counter() - started, 3), "samples": subject.samples}
        with world.first_alone():
            if world.is_main:
                write_analysis(run, result)
    return result


def _measure(
    subject: Subject,
    probes: Sequence[Any],
    store: PartStore,
    world: World,
    cores: Cores,
    quiet: bool | None,
) -> list[Part]:
    """What the probes that are always measured and all ``probes`` found."""
    with Progress("analyze", 1, quiet=quiet if world.is_main else True) as progress:

        def tell(name: str, done: int, total: int) -> None:
            progress.describe(f"analyze: {name}")
            progress.move_to(done, total)

        return measure(subject.stages, [*subject.always, *probes], store=store, world=world, cores=cores, tell=tell)


def _others(store: PartStore, parts: Sequence[Part]) -> list[Part]:
    """Parts of earlier analyses of the same features by probes that were not asked for this time."""
    measured = {part.probe for part in parts}
    loaded = [store.load(name) for name in store.names() if name not in measured]
    return [part for part in loaded if part is not None]


def _summary(key: AnalysisKey, subject: Subject, parts: Sequence[Part], world: World) -> dict[str, Any]:
    """What ``analysis.json`` says of how the results were made, and which of them last."""
    lasting = [part.probe for part in parts if is_lasting(part)]
    return {
        "version": VERSION,
        "installed": PROBES.offered(),
        "lasting": lasting,
        "complete": set(default_probes()) <= set(lasting),
        "key": key.to_dict(),
        "device": subject.device,
        "processes": world.size,
        "forward": subject.info.forward,
    }
