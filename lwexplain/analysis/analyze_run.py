"""The analysis of a trained run: features and results are kept in it, so that nothing is computed twice."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwexplain.analysis.assembly import assemble_analysis
from lwexplain.analysis.cores import Cores, shared_cores
from lwexplain.analysis.measuring import is_lasting, measure, start_probes
from lwexplain.analysis.parts import Part, PartStore
from lwexplain.analysis.stages import add_sample_images, chance_level, stages_of
from lwexplain.capture.extract import Captured
from lwexplain.capture.run_splits import Precision, RunCapture
from lwexplain.capture.store import FeatureStore
from lwexplain.data.dataset import DataSplits, Images
from lwexplain.data.pixels import thumbnails, to_pixels
from lwexplain.data.splits import stratified_subset
from lwexplain.errors import CaptureError
from lwexplain.memory import working_bytes
from lwexplain.probes.base import PROBES, Probe, StageData
from lwexplain.probes.cost import CostProbe
from lwexplain.probes.engine import ALWAYS, built_in_probes, default_probes
from lwexplain.probes.receptive_field import ReceptiveFieldProbe
from lwexplain.processes import World
from lwexplain.progress import Progress
from lwexplain.results import SPLITS, Analysis, AnalysisKey, write_analysis
from lwexplain.run import Run
from lwexplain.table import TableInfo
from lwexplain.training.trained import Trained, open_trained
from lwexplain.version import VERSION

FLOAT32_PASS = "float32 forward pass"


def analyze_run(
    run: Run,
    probes: Sequence[str | Probe],
    key: AnalysisKey,
    *,
    mem_limit: int | None = None,
    device: str | None = None,
    world: World | None = None,
    quiet: bool | None = None,
) -> Analysis:
    """Analyze a trained run and write the results into it; see ``lw.analyze``. Of several processes one writes."""
    started = time.perf_counter()
    world = world or World()
    store = PartStore(run.files.within("analysis/parts"), key.to_dict())
    ready = start_probes(probes, store) if world.is_main else list(probes)
    trained = open_trained(run, device)
    _require_room_for_classes(key, trained.data)
    memory = working_bytes(mem_limit)
    with ExitStack() as stack:
        with world.first_alone():
            if world.is_main:
                stack.enter_context(run.lock("lwexplain analyze"))
        cores = stack.enter_context(shared_cores(ready))
        capture = _capture_of(trained, key, memory, world, cores)
        captured, precision = _features(run, key, capture)
        stages = _stages(trained, key, capture, captured, memory)
        measured = _measure(trained, stages, ready, store, world, cores, quiet)
        parts = [*_others(store, measured), *measured]
        result = assemble_analysis(parts, _info(trained, stages, precision), stages)
        _add_pictures(result, stages, trained.data, captured["val"])
        result.summary |= _summary(key, trained, parts, precision, world)
        result.summary |= {
            "seconds": round(time.perf_counter() - started, 3),
            "samples": {split: len(part.labels) for split, part in captured.items()},
        }
        with world.first_alone():
            if world.is_main:
                write_analysis(run, result)
    return result


def _require_room_for_classes(key: AnalysisKey, data: DataSplits) -> None:
    if key.max_samples is not None and key.max_samples < data.num_classes:
        raise CaptureError(
            f"max_samples={key.max_samples} cannot hold one image of each of the {data.num_classes} classes"
        )


def _capture_of(trained: Trained, key: AnalysisKey, memory: int, world: World, cores: Cores) -> RunCapture:
    """What captures the features of the trained stages on the samples of ``key``."""
    data, seed = trained.data, trained.config.seed
    return RunCapture(
        trained.model,
        trained.stages,
        data,
        {split: _positions(getattr(data, split), key.max_samples, seed) for split in SPLITS},
        trained.device,
        seed,
        memory,
        world,
        key.pooling,
        before_batch=cores.share,
    )


def _features(run: Run, key: AnalysisKey, capture: RunCapture) -> tuple[dict[str, Captured], Precision]:
    """The features of all splits: read where they are in the store, else captured into it."""
    store = FeatureStore(run.files.within("analysis/features"), key.to_dict())
    with capture.world.first_alone():
        if capture.world.is_main:
            store.prepare()
    splits = {split: store.split(split, len(capture.positions[split])) for split in SPLITS}
    if all(split.read() is not None for split in splits.values()):
        capture.precision = Precision.of(store.about())
    else:
        known = store.about()
        capture.precision = Precision.of(known) if known else capture.choose_precision(key.precision)
        capture.world.wait()  # all have looked before one writes
        with capture.world.first_alone():
            if capture.world.is_main:
                store.note(capture.precision.to_dict())
        for name, split in splits.items():
            capture.split(name, split)
    captured = {}
    for name, split in splits.items():
        found = split.read()
        if found is None:
            raise CaptureError(
                f"the features under {split.files.path()} are not whole after they were captured; all processes must "
                "see the same run directory"
            )
        captured[name] = found
    return captured, capture.precision


def _stages(
    trained: Trained, key: AnalysisKey, capture: RunCapture, captured: dict[str, Captured], memory: int
) -> list[StageData]:
    """What the probes see of each stage, with a few images that attributions are made for."""
    data, seed, positions = trained.data, trained.config.seed, capture.positions
    stages = stages_of(
        captured,
        data.classes,
        seed=seed,
        device=str(trained.device),
        memory_bytes=memory,
        pooling=key.pooling,
        subsampled=frozenset(split for split in SPLITS if len(positions[split]) < len(getattr(data, split))),
    )
    add_sample_images(stages, trained.model, data, seed, trained.device)
    return stages


def _measure(
    trained: Trained,
    stages: list[StageData],
    probes: Sequence[Any],
    store: PartStore,
    world: World,
    cores: Cores,
    quiet: bool | None,
) -> list[Part]:
    """What the costs, the receptive fields and all ``probes`` found."""
    model, names = trained.model, trained.stages
    always: list[Any] = [CostProbe(model, names), ReceptiveFieldProbe(model, names, trained.data.shape)]
    with Progress("analyze", 1, quiet=quiet if world.is_main else True) as progress:

        def tell(name: str, done: int, total: int) -> None:
            progress.describe(f"analyze: {name}")
            progress.move_to(done, total)

        return measure(stages, [*always, *probes], store=store, world=world, cores=cores, tell=tell)


def _others(store: PartStore, parts: Sequence[Part]) -> list[Part]:
    """Parts of earlier analyses of the same features by probes that were not asked for this time."""
    measured = {part.probe for part in parts}
    loaded = [store.load(name) for name in store.names() if name not in measured]
    return [part for part in loaded if part is not None]


def _info(trained: Trained, stages: Sequence[StageData], precision: Precision) -> TableInfo:
    """What is known of the table as a whole, besides what follows from its rows."""
    return TableInfo(
        classes=list(stages[0].classes),
        strategy=trained.config.training.strategy,
        input_shape=list(trained.data.shape),
        built_in=[*ALWAYS, *built_in_probes()],
        chance=chance_level(stages[0].labels["val"]),
        forward=precision.note or FLOAT32_PASS,
        data_notes=list(trained.data.notes),
    )


def _summary(
    key: AnalysisKey, trained: Trained, parts: Sequence[Part], precision: Precision, world: World
) -> dict[str, Any]:
    """What ``analysis.json`` says of how the results were made, and which of them last."""
    lasting = [part.probe for part in parts if is_lasting(part)]
    return {
        "version": VERSION,
        "installed": PROBES.offered(),
        "lasting": lasting,
        "complete": set(default_probes()) <= set(lasting),
        "key": key.to_dict(),
        "device": str(trained.device),
        "processes": world.size,
        "forward": precision.note or FLOAT32_PASS,
    }


def _add_pictures(result: Analysis, stages: list[StageData], data: DataSplits, val: Captured) -> None:
    assert val.index is not None
    result.thumbnails = thumbnails(data.val, torch.from_numpy(np.array(val.index)))
    if stages[0].images is not None:
        result.attribution_images = to_pixels(stages[0].images, data.mean, data.std)
        result.attribution_labels = stages[0].image_labels


def _positions(images: Images, max_samples: int | None, seed: int) -> Tensor:
    if max_samples is None or max_samples >= len(images):
        return torch.arange(len(images))
    return stratified_subset(images.labels, max_samples, seed)
