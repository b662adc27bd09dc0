"""The analysis of any module on loaders of images and labels; nothing of it is kept."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lwexplain.adoption.look import look
from lwexplain.analysis.assembly import assemble_analysis
from lwexplain.analysis.foreign_stages import add_samples, cut_at, give_own_head, probes_of_network
from lwexplain.analysis.measuring import measure
from lwexplain.analysis.stages import chance_level, stages_of
from lwexplain.capture.pooling import Pooling
from lwexplain.data.batch_form import BatchForm
from lwexplain.devices import pick_device
from lwexplain.memory import working_bytes
from lwexplain.models.modules import own_names, undisturbed, unwrap
from lwexplain.probes.attribution.baseline import colour_of_zero
from lwexplain.probes.base import Probe
from lwexplain.probes.engine import ALWAYS, built_in_probes
from lwexplain.probes.hooks import name_as_asked
from lwexplain.progress import Progress
from lwexplain.results import Analysis
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
    final_norm: bool = False,
    quiet: bool | None = None,
) -> Analysis:
    """Analyze any module on loaders of images and labels; see ``lw.analyze_model``."""
    where = pick_device(device) if device else next((p.device for p in model.parameters()), torch.device("cpu"))
    memory = working_bytes(mem_limit)
    model = unwrap(model)
    stages = own_names(model, stages)
    with undisturbed(model), scratch_folder("features") as folder:
        form = form or BatchForm()
        seen = look(
            model,
            loaders,
            stages,
            folder=folder,
            form=form,
            classes=classes,
            pooling=pooling,
            device=where,
            final_norm=final_norm,
        )
        data = stages_of(
            seen.captured, seen.classes, seed=seed, device=str(where), memory_bytes=memory, pooling=pooling
        )
        zero = colour_of_zero(form.mean, were_pixels=seen.were_pixels)
        val = seen.captured["val"]
        norm = val.final_norm[1] if val.final_norm else None
        add_samples(data, model, seen.samples, seen.layouts, val.reading, where, zero, norm)
        cut = cut_at(model, data, seen.shape, seen.samples)
        if not callable(pooling):
            give_own_head(data, cut)
        if data[-1].logits and not any(name_as_asked(probe) == "head" for probe in probes):
            probes = ["head", *probes]
        with Progress("analyze", 1, quiet=quiet) as progress:

            def tell(name: str, done: int, total: int) -> None:
                progress.describe(f"analyze: {name}")
                progress.move_to(done, total)

            parts = measure(data, [*probes_of_network(model, cut, data, seen.shape), *probes], tell=tell)
        info = TableInfo(
            classes=seen.classes,
            input_shape=list(seen.shape),
            built_in=[*ALWAYS, *built_in_probes()],
            chance=chance_level(data[0].labels["val"]),
            forward="forward pass in the precision of the model",
            notes=seen.notes,
        )
        return assemble_analysis(parts, info, data)
