"""The analysis of any module on loaders of images and labels; nothing of it is kept."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lwexplain.analysis.assembly import assemble_analysis
from lwexplain.analysis.measuring import measure
from lwexplain.analysis.own_output import settle_own_output
from lwexplain.analysis.stages import SampleImages, chance_level, find_tokens, stages_of
from lwexplain.capture.extract import extract
from lwexplain.capture.hooks import output_of
from lwexplain.capture.pooling import Pooling
from lwexplain.data.batch_form import BatchForm
from lwexplain.data.given_batches import checked_batches
from lwexplain.devices import pick_device
from lwexplain.errors import CaptureError, ModelError
from lwexplain.memory import working_bytes
from lwexplain.models.layout import Layout
from lwexplain.models.modules import undisturbed, unwrap
from lwexplain.models.token_reading import TokenReading
from lwexplain.models.wrap import stage_by_names
from lwexplain.probes.attribution.baseline import colour_of_zero
from lwexplain.probes.base import Probe, StageData
from lwexplain.probes.cost import CostProbe
from lwexplain.probes.engine import ALWAYS, built_in_probes
from lwexplain.probes.hooks import name_as_asked
from lwexplain.probes.receptive_field import ReceptiveFieldProbe
from lwexplain.progress import Progress
from lwexplain.results import SPLITS, Analysis
from lwexplain.run.scratch import scratch_folder
from lwexplain.table import TableInfo


def analyze_module(
    model: nn.Module,
    loaders: Mapping[str, Iterable[Any]],
    stages: Sequence[str],
    probes: Sequence[str | Probe],
    *,
    classes: Sequence[str] | None = None,
    pooling: Pooling = "auto",
    device: str | None = None,
    mem_limit: int | None = None,
    form: BatchForm | None = None,
    seed: int = 0,
    quiet: bool | None = None,
) -> Analysis:
    """Analyze any module on loaders of images and labels; see ``lw.analyze_model``."""
    where = pick_device(device) if device else next((p.device for p in model.parameters()), torch.device("cpu"))
    memory = working_bytes(mem_limit)
    samples, form = SampleImages(), form or BatchForm()
    given = {split: checked_batches(batches, split, model, form) for split, batches in loaders.items()}
    with undisturbed(model), scratch_folder("features") as folder:
        captured = {
            split: extract(
                model,
                samples.watching(given[split]) if split == "val" else given[split],
                stages,
                pooling=pooling,
                device=where,
                store=Path(folder, split),
                own_output=True,
            )
            for split in SPLITS
            if split in given
        }
        shape = given["train"].shape or ()
        names = _class_names([part.labels for part in captured.values()], classes)
        names, notes = settle_own_output(captured, names)
        notes += dict.fromkeys(note for batches in given.values() for note in batches.notes)
        notes += [f"stage {name}: {layout.note}" for name, layout in captured["val"].layouts.items() if layout.note]
        data = stages_of(captured, names, seed=seed, device=str(where), memory_bytes=memory, pooling=pooling)
        present = [stage.name for stage in data]
        layouts = {} if callable(pooling) else captured["val"].layouts
        _add_sample_images(data, model, samples, where, layouts, captured["val"].reading)
        for stage in data:
            stage.zero_image = colour_of_zero(form.mean, were_pixels=given["val"].were_pixels)
        cost = _cost_probe(model, data, shape, with_head=bool(data[-1].logits) and not callable(pooling))
        field = ReceptiveFieldProbe(unwrap(model), present, shape)
        if data[-1].logits and not any(name_as_asked(probe) == "head" for probe in probes):
            probes = ["head", *probes]
        with Progress("analyze", 1, quiet=quiet) as progress:

            def tell(name: str, done: int, total: int) -> None:
                progress.describe(f"analyze: {name}")
                progress.move_to(done, total)

            parts = measure(data, [cost, field, *probes], tell=tell)
        info = TableInfo(
            classes=names,
            input_shape=list(shape),
            built_in=[*ALWAYS, *built_in_probes()],
            chance=chance_level(data[0].labels["val"]),
            forward="forward pass in the precision of the model",
            notes=notes,
        )
        return assemble_analysis(parts, info, data)


def _cost_probe(
    model: nn.Module, stages: list[StageData], input_shape: tuple[int, ...], *, with_head: bool
) -> CostProbe:
    """What measures the cost of each depth. ``with_head``: the last stage gets the model's own, where it can be cut."""
    names = [stage.name for stage in stages]
    try:
        staged = stage_by_names(unwrap(model), names, input_shape, len(stages[0].classes))
    except ModelError as error:
        return CostProbe(error, names)
    if with_head:
        stages[-1].head = staged.head(staged.depth)
    return CostProbe(staged, names)


MANY = 10_000
"""Classes from which on at least half must be there: measures keep numbers for every class, present or not."""


def _class_names(labels: Sequence[np.ndarray], classes: Sequence[str] | None) -> list[str]:
    """The names of all classes, by default their numbers; raises CaptureError where the labels do not fit."""
    highest = max(int(part.max()) for part in labels)
    if classes is not None:
        if len(classes) <= highest:
            raise CaptureError(f"labels go up to {highest}, but only {len(classes)} classes are named")
        return list(classes)
    different = len(np.unique(np.concatenate([np.unique(part) for part in labels])))
    if highest >= MANY and 2 * different <= highest:
        raise CaptureError(
            f"labels must be 0 to K - 1 for K classes; found {different:,} different ones up to {highest:,}. Number "
            "them anew, for example by numpy.unique(labels, return_inverse=True), or pass classes with a name for each"
        )
    return [str(label) for label in range(highest + 1)]


def _add_sample_images(
    stages: Sequence[StageData],
    model: nn.Module,
    samples: SampleImages,
    device: torch.device,
    layouts: Mapping[str, Layout],
    reading: TokenReading,
) -> None:
    """Give every stage the same few val images and the way from images to its output; it has no head of its own."""
    chosen = samples.images_and_labels()
    if chosen is None:
        return
    images, labels = chosen
    for stage in stages:
        stage.images, stage.image_labels = images.to(device), labels
        stage.model_to_stage = partial(
            output_of, model, stage.name, device=device, layout=layouts.get(stage.name, Layout())
        )
    find_tokens(stages, reading)
