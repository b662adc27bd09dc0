"""From a trained network to its analysis: capture every stage in one pass, run the probes, add the costs."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.advice.cost import CostProbe
from lwexplain.capture.extract import Captured, extract
from lwexplain.capture.hooks import unwrap
from lwexplain.capture.pooling import Pooling, pool
from lwexplain.capture.store import FeatureStore
from lwexplain.config import load_config
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits, Images
from lwexplain.data.load import load_data
from lwexplain.data.pixels import thumbnails, to_pixels
from lwexplain.data.splits import stratified_subset
from lwexplain.errors import CaptureError, ModelError, ProbeError, RunError
from lwexplain.models.staged import StagedModel, features_of
from lwexplain.models.wrap import stage_by_names
from lwexplain.probes.base import PROBES, Probe, StageData
from lwexplain.probes.engine import ProbeRun, default_probes, run_probes
from lwexplain.progress import Progress
from lwexplain.results import (
    Analysis,
    correctness_patterns,
    is_analyzed,
    keep_other_probes,
    metrics_frame,
    read_analysis,
    write_analysis,
)
from lwexplain.run import Run
from lwexplain.training.build import build_trainable
from lwexplain.training.checkpoint import load_final_weights
from lwexplain.training.devices import pick_device

SPLITS = ("train", "val", "test")
SAMPLE_IMAGES = 12


def load_trained(run: Run, data: DataSplits, device: torch.device) -> tuple[StagedModel, str]:
    """The trained network of a run on ``device`` in evaluation mode, and the digest of its weights."""
    run.require_trained()
    config = load_config(run.config())
    model = build_trainable(config, data.shape, data.num_classes)
    digest = load_final_weights(run, model)
    return model.to(device).eval(), digest


def analyze_run(
    run: Run,
    probes: Sequence[str | Probe] | None = None,
    *,
    max_samples: int | None,
    device: str | None = None,
    quiet: bool | None = None,
) -> Analysis:
    """Analyze a trained run and write the results into it; see ``lw.analyze``."""
    started = time.perf_counter()
    run.require_trained()
    if max_samples is not None and max_samples < 1:
        raise CaptureError(f"max_samples is {max_samples}; it must be 1 or more, or None for all")
    config = load_config(run.config())
    data = load_data(config.data, config.seed)
    if max_samples is not None and max_samples < data.num_classes:
        raise CaptureError(f"max_samples={max_samples} cannot hold one image of each of the {data.num_classes} classes")
    if data.fingerprint != run.manifest.get("data", {}).get("fingerprint"):
        raise RunError(
            f"the images of {data.name!r} differ from those {run.path} was trained on; "
            "restore the data set, or train the run anew"
        )
    where = pick_device(device or config.device)
    chosen_probes = _chosen(probes)
    with run.lock("lwexplain analyze"):
        model, weights = load_trained(run, data, where)
        trained_depth = run.manifest["trained_depth"]
        names = model.names[:trained_depth]
        key = {"weights": weights, "data": data.fingerprint, "max_samples": max_samples, "pooling": "mean"}
        chosen = {split: _positions(getattr(data, split), max_samples, config.seed) for split in SPLITS}
        subsampled = {split for split in SPLITS if len(chosen[split]) < len(getattr(data, split))}
        store = FeatureStore(run.analysis / "features", key)
        captured = {
            split: store.load(split) or _capture_split(model, names, positions, data, config.seed, where, store, split)
            for split, positions in chosen.items()
        }
        val = captured["val"]
        assert val.index is not None
        stages = _stage_data(captured, names, data.classes, config.seed, frozenset(subsampled), str(where))
        _add_sample_images(stages, model, data, config.seed, where)
        result = _measure(
            stages,
            chosen_probes,
            CostProbe(model, names),
            strategy=config.training.strategy,
            classes=data.classes,
            quiet=quiet,
        )
        result.thumbnails = thumbnails(data.val, torch.from_numpy(np.array(val.index)))
        if stages[0].images is not None:
            result.attribution_images = to_pixels(stages[0].images, data)
            result.attribution_labels = stages[0].image_labels
        result.summary |= {
            "key": key,
            "device": str(where),
            "seconds": round(time.perf_counter() - started, 3),
            "samples": {split: len(captured[split].labels) for split in SPLITS},
        }
        if is_analyzed(run):
            try:
                result = keep_other_probes(read_analysis(run), result)
            except RunError as error:  # what is damaged is replaced as a whole
                result.summary["replaced"] = str(error)
        write_analysis(run, result)
    return result


def analyze_model(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Sequence[Any]]],
    stages: Sequence[str],
    probes: Sequence[str | Probe] | None = None,
    *,
    classes: Sequence[str] | None = None,
    pooling: Pooling = "mean",
    device: str | None = None,
    seed: int = 0,
    quiet: bool | None = None,
) -> Analysis:
    """Analyze any module on loaders of (images, labels); see ``lw.analyze_model``."""
    missing = [split for split in ("train", "val") if split not in loaders]
    unknown = [split for split in loaders if split not in SPLITS]
    if missing or unknown:
        raise CaptureError(
            f"loaders must have the keys train and val (test is optional); missing {missing}, unknown {unknown}"
        )
    chosen_probes = _chosen(probes)
    where = pick_device(device) if device else next((p.device for p in model.parameters()), torch.device("cpu"))
    shapes: list[tuple[int, ...]] = []
    captured = {
        split: extract(model, _noting_shape(loaders[split], shapes), stages, pooling=pooling, device=where)
        for split in SPLITS
        if split in loaders
    }
    highest = max(int(part.labels.max()) for part in captured.values())
    names = list(classes) if classes is not None else [str(label) for label in range(highest + 1)]
    if len(names) <= highest:
        raise CaptureError(f"labels go up to {highest}, but only {len(names)} classes are named")
    data = _stage_data(captured, list(stages), names, seed, frozenset(), str(where), pooling)
    try:
        cost = CostProbe(stage_by_names(unwrap(model), stages, shapes[0], len(names)), list(stages))
    except ModelError as error:
        cost = CostProbe(error, list(stages))
    return _measure(data, chosen_probes, cost, strategy=None, classes=names, quiet=quiet)


def _chosen(probes: Sequence[str | Probe] | None) -> list[str | Probe]:
    """The probes to run; what is wrong with their names is said before the data is looked at."""
    if probes is None:
        return list(default_probes())
    if isinstance(probes, str) or not probes:
        raise ProbeError(f"probes is {probes!r}; name at least one in a list, see lwexplain list probes")
    for probe in probes:
        if isinstance(probe, str):
            PROBES.get(probe)
    return list(probes)


def _noting_shape(batches: Iterable[Sequence[Any]], shapes: list[tuple[int, ...]]) -> Iterator[Sequence[Any]]:
    """The same batches; the shape of the first image is put into ``shapes``."""
    for batch in batches:
        if not shapes and isinstance(batch, (tuple, list)) and isinstance(batch[0], Tensor):
            shapes.append(tuple(batch[0].shape[1:]))
        yield batch


def _capture_split(
    model: StagedModel,
    names: list[str],
    positions: Tensor,
    data: DataSplits,
    seed: int,
    device: torch.device,
    store: FeatureStore,
    split: str,
) -> Captured:
    images = getattr(data, split).subset(positions)
    batches = Batches(images, 256, mean=data.mean, std=data.std, seed=seed, device=device, channels_last=True)
    heads = {name: model.head(depth) for depth, name in enumerate(names, start=1) if depth in model.head_depths}
    modules = {name: model.stages[name] for name in names}
    captured = extract(
        model, batches, names, heads=heads, modules=modules, device=device, store=store.split_folder(split)
    )
    captured.index = positions.numpy()
    store.save(split, captured)
    return captured


def _positions(images: Images, max_samples: int | None, seed: int) -> Tensor:
    if max_samples is None or max_samples >= len(images):
        return torch.arange(len(images))
    return stratified_subset(images.labels, max_samples, seed)


def _stage_data(
    captured: Mapping[str, Captured],
    names: list[str],
    classes: list[str],
    seed: int,
    subsampled: frozenset[str],
    device: str,
    pooling: Pooling = "mean",
) -> list[StageData]:
    labels = {split: np.array(part.labels) for split, part in captured.items()}
    return [
        StageData(
            name=name,
            depth=depth,
            features={split: part.features[name] for split, part in captured.items()},
            labels=labels,
            classes=classes,
            logits={split: part.logits[name] for split, part in captured.items() if name in part.logits},
            seed=seed,
            subsampled=subsampled,
            device=device,
            pool=lambda raw: pool(raw, pooling),
        )
        for depth, name in enumerate(names, start=1)
    ]


def _add_sample_images(
    stages: list[StageData], model: StagedModel, data: DataSplits, seed: int, device: torch.device
) -> None:
    """Give every stage the same few val images, one a class first, and the way from images to its output."""
    classes = len(data.val.labels.unique())
    size = min(len(data.val), max(SAMPLE_IMAGES, classes))
    positions = stratified_subset(data.val.labels, size, seed)[: 2 * SAMPLE_IMAGES]
    order = data.val.labels[positions].argsort(stable=True)
    images = data.val.subset(positions[order])
    batches = Batches(images, len(images), mean=data.mean, std=data.std, seed=seed, device=device)
    x, _, _ = next(iter(batches.epoch()))
    for stage in stages:
        stage.images = x
        stage.image_labels = images.labels.numpy()
        stage.model_to_stage = _prefix(model, stage.depth)
        stage.head = model.head(stage.depth) if stage.depth in model.head_depths else None


def _prefix(model: StagedModel, depth: int) -> Any:
    return lambda images: features_of(model.run_stages(images, 0, depth))


def _measure(
    stages: list[StageData],
    probes: list[str | Probe],
    cost: CostProbe,
    *,
    strategy: str | None,
    classes: list[str],
    quiet: bool | None,
) -> Analysis:
    with Progress("analyze", 1, quiet=quiet) as progress:

        def on_progress(name: str, done: int, total: int) -> None:
            progress.describe(f"analyze: {name}")
            progress.move_to(done, total)

        done: ProbeRun = run_probes(stages, [cost, *probes], on_progress=on_progress)
    names = [stage.name for stage in stages]
    attrs = {
        "stages": names,
        "classes": list(classes),
        "strategy": strategy,
        "chance": float(np.bincount(stages[0].labels["val"]).max() / len(stages[0].labels["val"])),
        "patterns": correctness_patterns(done.predictions, names),
        "failures": done.failures,
    }
    summary = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "probe_seconds": {name: round(seconds, 3) for name, seconds in done.seconds.items()},
        "made_by": {
            "predictions": done.sources,
            "embeddings": done.embedding_probes,
            "attributions": done.attribution_probes,
        },
    }
    return Analysis(
        metrics=metrics_frame(done.rows, attrs),
        predictions=done.predictions,
        embeddings=done.embeddings,
        attributions=done.attributions,
        summary=summary,
    )
