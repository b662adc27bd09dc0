"""A trained run as what is analyzed: its features are read where they are kept, else captured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lwexplain.analysis.cores import Cores
from lwexplain.analysis.stages import add_sample_images, chance_level, stages_of
from lwexplain.analysis.subject import Subject
from lwexplain.capture.extract import Captured
from lwexplain.capture.run_splits import Precision, RunCapture
from lwexplain.capture.store import FeatureStore
from lwexplain.data.dataset import Images
from lwexplain.data.pixels import thumbnails, to_pixels
from lwexplain.data.splits import stratified_subset
from lwexplain.errors import CaptureError
from lwexplain.probes.base import StageData
from lwexplain.probes.cost import CostProbe
from lwexplain.probes.engine import ALWAYS, built_in_probes
from lwexplain.probes.receptive_field import ReceptiveFieldProbe
from lwexplain.processes import World
from lwexplain.results import SPLITS, Analysis, AnalysisKey
from lwexplain.run import Run
from lwexplain.table import TableInfo
from lwexplain.training.trained import Trained

FLOAT32_PASS = "float32 forward pass"


def trained_subject(run: Run, trained: Trained, key: AnalysisKey, memory: int, world: World, cores: Cores) -> Subject:
    """The trained stages of a run on the samples of ``key``; raises CaptureError and RunError as capture does."""
    if key.max_samples is not None and key.max_samples < trained.data.num_classes:
        raise CaptureError(
            f"max_samples={key.max_samples} cannot hold one image of each of the {trained.data.num_classes} classes"
        )
    capture = _capture_of(trained, key, memory, world, cores)
    captured, precision = _features(run, key, capture)
    stages = _stages(trained, key, capture, captured, memory)
    model, names, data = trained.model, trained.stages, trained.data

    def add_pictures(result: Analysis) -> None:
        index = captured["val"].index
        assert index is not None
        result.thumbnails = thumbnails(data.val, torch.from_numpy(np.array(index)))
        if stages[0].images is not None:
            result.attribution_images = to_pixels(stages[0].images, data.mean, data.std)
            result.attribution_labels = stages[0].image_labels

    return Subject(
        stages,
        [CostProbe(model, names), ReceptiveFieldProbe(model, names, data.shape)],
        _info(trained, stages, precision),
        str(trained.device),
        {split: len(part.labels) for split, part in captured.items()},
        add_pictures,
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


def _positions(images: Images, max_samples: int | None, seed: int) -> Tensor:
    if max_samples is None or max_samples >= len(images):
        return torch.arange(len(images))
    return stratified_subset(images.labels, max_samples, seed)
