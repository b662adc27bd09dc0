"""One look at all stages: the features of the sample in one forward pass, and what the indices say of them.

Linear probe and nearest class mean are fitted on one half of the images and scored on the other; separability,
effective rank and the drift since the last look are of all of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from lwexplain.capture.extract import extract
from lwexplain.capture.pooling import Pooling
from lwexplain.errors import ProbeError
from lwexplain.models.token_reading import TokenReading
from lwexplain.monitoring.sample import Sample
from lwexplain.probes.accuracy import accuracy_of
from lwexplain.probes.base import Measurement, StageData
from lwexplain.probes.geometry import effective_rank, variances
from lwexplain.probes.linear.probe import fit_linear_probes, remembered_probe
from lwexplain.probes.moments import moments_of
from lwexplain.probes.neighbours import NearestClassMean
from lwexplain.probes.separability.probe import separability_index
from lwexplain.probes.similarity.two_times import linear_cka
from lwexplain.probes.splits import read_split
from lwexplain.processes import World

C = 1.0
"""The inverse regularisation strength of the linear probe: one value, as there is no third part to choose it on."""

GRID = (C,)


@dataclass(frozen=True)
class StageLook:
    """What one look says of a stage: its numbers, or why there are none."""

    stage: str
    depth: int
    numbers: list[Measurement] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class Look:
    """What one look saw: every stage in running order, and the features (N, D) float32 that the next is compared to.

    ``reading`` is what the network's head reads of tokens, found once.
    """

    stages: list[StageLook]
    features: dict[str, np.ndarray]
    reading: TokenReading


def look_at(
    model: nn.Module,
    sample: Sample,
    stages: Sequence[str],
    *,
    pooling: Pooling = "auto",
    last: Look | None = None,
    reading: TokenReading | None = None,
) -> Look:
    """Look at the ``stages`` of ``model``, which is left exactly as it was; ``last`` is what drift is counted from.
    ``reading`` of tokens is found anew where it is not given.

    A stage whose features cannot be measured, as they hold NaN for example, says so and the others stand. Raises
    CaptureError and UserCodeError as ``extract`` does.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False), torch.no_grad():
        captured = extract(model, sample.batches(), stages, pooling=pooling, device=device, reading=reading)
        found = _measure(captured.features, sample, str(device), last)
        return Look(found, captured.features, captured.reading)


def _measure(captured: Mapping[str, np.ndarray], sample: Sample, device: str, last: Look | None) -> list[StageLook]:
    """The numbers of each stage from its features (N, D)."""
    classes, labels = np.unique(sample.labels, return_inverse=True)
    names = [str(label) for label in classes]
    found, halves = [], []
    for depth, (name, features) in enumerate(captured.items(), start=1):
        parts = {"train": features[sample.fit], "val": features[~sample.fit]}
        of_parts = {"train": labels[sample.fit], "val": labels[~sample.fit]}
        halves.append(StageData(name, depth, parts, of_parts, names, device=device))
    reasons = {stage.name: _why_unusable(stage) for stage in halves}
    fit_linear_probes([stage for stage in halves if not reasons[stage.name]], GRID, World())
    for stage in halves:
        if reasons[stage.name]:
            found.append(StageLook(stage.name, stage.depth, reason=reasons[stage.name]))
            continue
        features = captured[stage.name]
        before = None if last is None else last.features.get(stage.name)
        try:
            numbers = [*_accuracies(stage), *_of_all(stage, features, labels, before)]
            found.append(StageLook(stage.name, stage.depth, numbers))
        except ProbeError as error:
            found.append(StageLook(stage.name, stage.depth, reason=str(error)))
    return found


def _why_unusable(stage: StageData) -> str:
    try:
        for split in ("train", "val"):
            read_split(stage, split)
    except ProbeError as error:
        return str(error)
    return ""


def _accuracies(stage: StageData) -> list[Measurement]:
    """What is fitted on one half and scored on the other."""
    probe = remembered_probe(stage, GRID)
    assert probe is not None
    predicted = probe.logits(stage.features["val"]).argmax(1)
    linear = accuracy_of("linear_probe_accuracy", predicted, stage.labels["val"], "val", probe.note)
    return [linear, NearestClassMean().measure(stage)[0]]


def _of_all(stage: StageData, features: np.ndarray, labels: np.ndarray, before: np.ndarray | None) -> list[Measurement]:
    """What nothing is fitted for, of all images."""
    n = len(features)
    whole = StageData(stage.name, stage.depth, {"val": features}, {"val": labels}, stage.classes, device=stage.device)
    rank = effective_rank(variances(moments_of(whole, "val").whole))
    numbers = [separability_index(whole), Measurement("effective_rank", rank, n=n)]
    if before is not None:
        cka = linear_cka(before[:n], features[: len(before)], device=stage.device)
        drift = math.nan if math.isnan(cka) else 1 - cka
        numbers += [Measurement("cka_linear", cka, n=n), Measurement("drift", drift, n=n)]
    return numbers
