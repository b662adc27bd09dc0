"""An adopted run as what is analyzed: from what it holds, and from its network where this process has it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lwexplain.adoption.adopt import POOLING
from lwexplain.adoption.kept import (
    adoption_of,
    form_of,
    has_final_norm,
    read_features,
    read_samples,
    read_small_pictures,
    sizes_of,
    store_of,
    write_features,
)
from lwexplain.adoption.live import Live, live_of, require_live
from lwexplain.adoption.look import look
from lwexplain.adoption.pictures import pictures_of
from lwexplain.adoption.sample_images import Samples
from lwexplain.analysis.foreign_stages import add_samples, cut_at, give_own_head, probes_of_network
from lwexplain.analysis.measuring import measure
from lwexplain.analysis.parts import Part, PartStore
from lwexplain.analysis.stages import chance_level, stages_of
from lwexplain.analysis.subject import Subject
from lwexplain.capture.extract import Captured, capturing
from lwexplain.data.splits import stratified_subset
from lwexplain.devices import pick_device
from lwexplain.errors import CaptureError, RunError
from lwexplain.memory import working_bytes
from lwexplain.probes.attribution.baseline import colour_of_zero
from lwexplain.probes.base import StageData
from lwexplain.probes.engine import ALWAYS, built_in_probes
from lwexplain.processes import World
from lwexplain.results import Analysis, AnalysisKey
from lwexplain.run import Run
from lwexplain.run.scratch import scratch_folder
from lwexplain.stored_config import config_of_run
from lwexplain.table import TableInfo

OF_THE_NETWORK = frozenset({"attribution"})
"""Probes that run the network itself; the others read features."""


def adopted_subject(
    run: Run, key: AnalysisKey, memory: int, world: World, *, device: str | None = None, named: Sequence[str] = ()
) -> Subject:
    """The stages of an adopted run on the samples of ``key``; ``named`` are the probes somebody asked for by name.

    Raises RunError where that takes the network, which no run directory holds, and this process does not have it:
    features pooled otherwise than those that are kept, and probes of the network among ``named``.
    """
    run.require_trained()
    live = live_of(run)
    asked = sorted(set(named) & OF_THE_NETWORK)
    if asked:
        live = require_live(run, f"probe {asked[0]!r}")
    seed = config_of_run(run).seed
    whole = _features(run, key, world)
    classes = [str(name) for name in run.manifest["data"]["classes"]]
    captured = {split: _part_of(part, key.max_samples, len(classes), seed) for split, part in whole.items()}
    place = live.device if live is not None else pick_device(device or "cpu")
    stages = stages_of(
        captured,
        classes,
        seed=seed,
        device=str(place),
        memory_bytes=memory,
        pooling=key.pooling,
        subsampled=frozenset(split for split in captured if len(captured[split].labels) < len(whole[split].labels)),
    )
    samples = read_samples(run)
    about = store_of(run, key).about() or {}
    if live is not None:
        _bring_network(run, live, stages, samples)
        with world.first_alone():
            if world.is_main and "pooled" not in about:
                store_of(run, key).note({**about, "pooled": {stage.name: stage.pooled for stage in stages}})
    else:
        pooled = about.get("pooled")
        for stage in stages:
            stage.pooled = str(pooled.get(stage.name, "")) if isinstance(pooled, Mapping) else ""
    notes = [str(note) for note in adoption_of(run).get("notes", [])]
    if live is None:
        notes.append(
            "attribution maps are not among the measurements: they need the network, which no run directory holds "
            "(--model package.module:factory, or model=...)"
        )
    return Subject(
        stages,
        [],
        _info(run, stages, notes),
        str(place),
        {split: len(part.labels) for split, part in captured.items()},
        lambda result: _add_pictures(run, result, captured["val"], samples),
        parts=_parts_of_network(run, live, stages, samples, world),
        without=frozenset() if live is not None else OF_THE_NETWORK,
    )


def measure_network(run: Run, *, device: str | None = None) -> None:
    """Keep the costs and receptive fields of a newly adopted run, whose network is at hand."""
    require_live(run, "measuring its costs")
    key = AnalysisKey.of(run, max_samples=None, pooling=POOLING, precision="auto")
    adopted_subject(run, key, working_bytes(None), World(), device=device)


def _bring_network(run: Run, live: Live, stages: list[StageData], samples: Samples | None) -> None:
    """The way from the sample images to each stage."""
    if samples is None:
        return
    names = [stage.name for stage in stages]
    with capturing(live.network, names, device=live.device, final_norm=has_final_norm(run)) as read:
        one = read((samples.images[:1], torch.from_numpy(samples.labels[:1])))
    norm = one.final_norm[1] if one.final_norm else None
    pixels = adoption_of(run).get("were_pixels") is True
    zero = colour_of_zero(form_of(run).mean, were_pixels=pixels)
    add_samples(stages, live.network, samples, one.layouts, one.reading, live.device, zero, norm)


def _parts_of_network(
    run: Run, live: Live | None, stages: list[StageData], samples: Samples | None, world: World
) -> list[Part]:
    """What was found of the network itself, measured where it is at hand and nothing is kept."""
    digest = str(adoption_of(run).get("weights"))
    store = PartStore(
        run.files.within("adopted/parts"), {"weights": digest, "stages": [stage.name for stage in stages]}
    )
    kept = [part for name in ALWAYS if (part := store.load(name)) is not None]
    shape = tuple(run.manifest["data"]["shape"])
    if live is None:
        return kept
    cut = cut_at(live.network, stages, shape, samples)
    give_own_head(stages, cut)
    if len(kept) == len(ALWAYS):
        return kept
    probes = probes_of_network(live.network, cut, stages, shape)
    return measure(stages, probes, store=store, world=world)


def _features(run: Run, key: AnalysisKey, world: World) -> dict[str, Captured]:
    """The features of all samples: those that are kept, else of another look at the images."""
    found = read_features(run, key)
    world.wait()  # all have looked before one writes
    if found is not None:
        return found
    live = require_live(run, f"another pooling or precision of features ({key.pooling}, {key.precision})")
    with world.first_alone():
        if world.is_main:
            with scratch_folder("adopt") as folder:
                seen = look(
                    live.network,
                    live.loaders(),
                    list(run.manifest["stages"]),
                    folder=folder,
                    form=live.form,
                    classes=run.manifest["data"]["classes"],
                    pooling=key.pooling,
                    device=live.device,
                    final_norm=has_final_norm(run),
                )
                sizes = {split: len(part.labels) for split, part in seen.captured.items()}
                if sizes != sizes_of(run):
                    raise RunError(
                        f"the loaders give {sizes} images, {run.path} was adopted with {sizes_of(run)}; pass the same, "
                        "or adopt the network into another run"
                    )
                write_features(run, key, seen.captured)
    found = read_features(run, key)
    if found is None:
        raise CaptureError(f"the features under {run.analysis}/features are not whole after they were captured")
    return found


def _part_of(captured: Captured, most: int | None, classes: int, seed: int) -> Captured:
    """All rows, or a stratified part of ``most``."""
    if most is None or most >= len(captured.labels):
        return captured
    if most < classes:
        raise CaptureError(f"max_samples={most} cannot hold one image of each of the {classes} classes")
    rows = stratified_subset(torch.from_numpy(captured.labels), most, seed).numpy()
    return Captured(
        {name: np.asarray(array[rows]) for name, array in captured.features.items()},
        captured.labels[rows],
        {name: np.asarray(array[rows]) for name, array in captured.logits.items()},
        rows,
    )


def _info(run: Run, stages: Sequence[StageData], notes: list[str]) -> TableInfo:
    data = run.manifest["data"]
    return TableInfo(
        classes=list(stages[0].classes),
        input_shape=list(data["shape"]),
        built_in=[*ALWAYS, *built_in_probes()],
        chance=chance_level(stages[0].labels["val"]),
        forward="forward pass in the precision of the model",
        data_notes=[str(note) for note in data.get("notes", [])],
        notes=notes,
    )


def _add_pictures(run: Run, result: Analysis, val: Captured, samples: Samples | None) -> None:
    pictures = read_small_pictures(run)
    if pictures is not None:
        result.thumbnails = np.asarray(pictures if val.index is None else pictures[val.index])
    if samples is not None:
        result.attribution_images = pictures_of(form_of(run)).of(samples.images)
        result.attribution_labels = samples.labels
