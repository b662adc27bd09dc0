"""The analysis of a trained run: features and results are kept in it, so that nothing is computed twice."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwexplain.analysis.assembly import assembled
from lwexplain.analysis.cores import shared_cores
from lwexplain.analysis.measuring import is_lasting, made_ready, measure
from lwexplain.analysis.parts import Part, PartStore
from lwexplain.analysis.stages import add_sample_images, chance_level, stages_of
from lwexplain.capture.extract import Captured
from lwexplain.capture.run_splits import Precision, RunCapture
from lwexplain.capture.store import FeatureStore
from lwexplain.config import Config
from lwexplain.data.dataset import DataSplits, Images
from lwexplain.data.load import load_data
from lwexplain.data.pixels import thumbnails, to_pixels
from lwexplain.data.same_data import require_same_data
from lwexplain.data.splits import stratified_subset
from lwexplain.devices import pick_device
from lwexplain.errors import CaptureError, RunError
from lwexplain.memory import working_bytes
from lwexplain.models.size_limit import SizeLimit
from lwexplain.models.staged import StagedModel
from lwexplain.probes.base import PROBES, Probe, StageData
from lwexplain.probes.cost import CostProbe
from lwexplain.probes.engine import ALWAYS, built_in_probes, default_probes
from lwexplain.probes.receptive_field import ReceptiveFieldProbe
from lwexplain.processes import World
from lwexplain.progress import Progress
from lwexplain.results import SPLITS, Analysis, AnalysisKey, write_analysis
from lwexplain.run import Run
from lwexplain.stored_config import config_of_run, most_bytes
from lwexplain.training.build import build_trainable
from lwexplain.training.checkpoint import load_final_weights
from lwexplain.version import VERSION


def load_trained(run: Run, data: DataSplits, device: torch.device) -> tuple[StagedModel, str]:
    """The trained network of a run on ``device`` in evaluation mode, and the digest of its weights."""
    run.require_trained()
    config = config_of_run(run)
    with SizeLimit(most_bytes(run)):
        model = build_trainable(config, data.shape, data.num_classes)
    digest = load_final_weights(run, model)
    if run.trained_depth > model.depth:
        raise RunError(
            f"{run.path}/run.json says that {run.trained_depth} stages were trained, the network has {model.depth}; "
            "restore it from a copy of the run"
        )
    return model.to(device).to(memory_format=torch.channels_last).eval(), digest


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
    config = config_of_run(run)
    store = PartStore(run.files.within("analysis/parts"), key.to_dict())
    ready = made_ready(probes, store) if world.is_main else list(probes)
    data = load_data(config.data, config.seed)
    if key.max_samples is not None and key.max_samples < data.num_classes:
        raise CaptureError(
            f"max_samples={key.max_samples} cannot hold one image of each of the {data.num_classes} classes"
        )
    require_same_data(data, run)
    where = pick_device(device or config.device)
    model, _ = load_trained(run, data, where)
    memory = working_bytes(mem_limit)
    with ExitStack() as stack:
        with world.first_alone():
            if world.is_main:
                stack.enter_context(run.lock("lwexplain analyze"))
        cores = stack.enter_context(shared_cores(ready))
        names = model.names[: run.trained_depth]
        positions = {split: _positions(getattr(data, split), key.max_samples, config.seed) for split in SPLITS}
        capture = RunCapture(
            model,
            names,
            data,
            positions,
            where,
            config.seed,
            memory,
            world,
            key.pooling,
            before_batch=cores.share,
        )
        captured, precision = _captured(run, key, capture)
        subsampled = frozenset(split for split in SPLITS if len(positions[split]) < len(getattr(data, split)))
        stages = stages_of(
            captured,
            data.classes,
            seed=config.seed,
            device=str(where),
            memory_bytes=memory,
            pooling=key.pooling,
            subsampled=subsampled,
        )
        add_sample_images(stages, model, data, config.seed, where)
        costs: list[Any] = [CostProbe(model, names), ReceptiveFieldProbe(model, names, data.shape)]
        with Progress("analyze", 1, quiet=quiet if world.is_main else True) as progress:

            def tell(name: str, done: int, total: int) -> None:
                progress.describe(f"analyze: {name}")
                progress.move_to(done, total)

            parts = measure(stages, [*costs, *ready], store=store, world=world, cores=cores, tell=tell)
        parts = [*_others(store, parts), *parts]
        result = _assembled(stages, parts, config, precision, list(data.shape), data.notes)
        _add_pictures(result, stages, data, captured["val"])
        lasting = [part.probe for part in parts if is_lasting(part)]
        result.summary |= {
            "version": VERSION,
            "installed": PROBES.offered(),
            "lasting": lasting,
            "complete": set(default_probes()) <= set(lasting),
            "key": key.to_dict(),
            "device": str(where),
            "processes": world.size,
            "seconds": round(time.perf_counter() - started, 3),
            "samples": {split: len(part.labels) for split, part in captured.items()},
            "forward": precision.note or "float32 forward pass",
        }
        with world.first_alone():
            if world.is_main:
                write_analysis(run, result)
    return result


def _captured(run: Run, key: AnalysisKey, capture: RunCapture) -> tuple[dict[str, Captured], Precision]:
    """The features of all splits, from the store as far as they are there."""
    store = FeatureStore(run.files.within("analysis/features"), key.to_dict())
    with capture.world.first_alone():
        if capture.world.is_main:
            store.prepare()
    splits = {split: store.split(split, len(capture.positions[split])) for split in SPLITS}
    if all(split.read() is not None for split in splits.values()):
        capture.precision = Precision.of(store.about())
    else:
        known = store.about()
        capture.precision = Precision.of(known) if known else capture.chosen_precision(key.precision)
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


def _others(store: PartStore, parts: Sequence[Part]) -> list[Part]:
    """Parts of earlier analyses of the same features by probes that were not asked for this time."""
    measured = {part.probe for part in parts}
    loaded = [store.load(name) for name in store.names() if name not in measured]
    return [part for part in loaded if part is not None]


def _assembled(
    stages: list[StageData],
    parts: list[Part],
    config: Config,
    precision: Precision,
    shape: list[int],
    notes: Sequence[str],
) -> Analysis:
    attrs: dict[str, Any] = {
        "classes": list(stages[0].classes),
        "strategy": config.training.strategy,
        "input_shape": shape,
        "built_in": [*ALWAYS, *built_in_probes()],
        "chance": chance_level(stages[0].labels["val"]),
        "forward": precision.note or "float32 forward pass",
        "data_notes": list(notes),
    }
    return assembled(parts, attrs, stages)


def _add_pictures(result: Analysis, stages: list[StageData], data: DataSplits, val: Captured) -> None:
    assert val.index is not None
    result.thumbnails = thumbnails(data.val, torch.from_numpy(np.array(val.index)))
    if stages[0].images is not None:
        result.attribution_images = to_pixels(stages[0].images, data)
        result.attribution_labels = stages[0].image_labels


def _positions(images: Images, max_samples: int | None, seed: int) -> Tensor:
    if max_samples is None or max_samples >= len(images):
        return torch.arange(len(images))
    return stratified_subset(images.labels, max_samples, seed)
