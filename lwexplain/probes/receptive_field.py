"""How much of the image each stage sees, and which stages come after all of it has been seen."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.image_argument import pass_images
from lwexplain.models.modules import as_parameters, find_modules, in_evaluation, path_and_call, unwrap
from lwexplain.models.receptive_field import ReceptiveField, StageField, receptive_fields
from lwexplain.models.staged import StagedModel
from lwexplain.probes.base import Measurement, ProbeDefaults, StageData
from lwexplain.probes.metrics import geometry as declared


class ReceptiveFieldProbe(ProbeDefaults):
    """Receptive field of every stage in pixels, and whether it lies beyond the border; needs no training and no data.

    Rows of no split: ``receptive_field`` of a stage's output along the longest path, ``receptive_field_shortest`` along
    the shortest, and ``beyond_border``, 1 where the image is smaller than the receptive field of what goes into the
    stage, so that its convolutions find nothing new to combine and are likely to add nothing, else 0 (Richter et al.
    2021, "Should you go deeper?"; where shortcuts give several paths, the shortest counts). The first stage with 1 is
    the border layer. NaN after pooling or flattening has brought all positions together, where the rule says nothing.
    Of a field that is not square the smaller side is the value. Where the whole image is seen whatever its size, the
    value is the side of the image, with a note.
    """

    name = "receptive_field"
    order = 20
    metrics = declared.OF_RECEPTIVE_FIELDS

    def __init__(self, model: nn.Module, stages: Sequence[str], input_shape: Sequence[int]) -> None:
        self.model = model
        self.stages = list(stages)
        self.input_shape = tuple(input_shape)
        self.settings = {"stages": self.stages, "input_shape": list(input_shape)}  # besides the architecture

    def measure_all(self, stages: list[StageData]) -> dict[str, list[Measurement]]:
        """Rows by stage name. Raises ModelError for inputs that are no images (C, H, W), CaptureError for an unknown
        stage."""
        if len(self.input_shape) != 3:
            raise ModelError(f"inputs have shape {self.input_shape}; receptive fields are those of images (C, H, W)")
        model = unwrap(self.model)
        known = None
        if isinstance(model, StagedModel):
            known = dict(zip(self.stages, model.body, strict=False))
        modules = find_modules(model, self.stages, known)
        calls = {name: (module, path_and_call(name)[1] or 1) for name, module in modules.items()}
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        image = as_parameters(torch.zeros(1, *self.input_shape, device=device), model)
        with in_evaluation(model):
            fields = receptive_fields(partial(pass_images, model), calls, image)
        return {name: field_measurements(field, self.input_shape[1:]) for name, field in fields.items()}


def field_measurements(field: StageField, side: tuple[int, ...]) -> list[Measurement]:
    """A stage's receptive field as rows, for an image with these sides (height, width)."""
    beyond, why = beyond_border(field.before, side)
    return [
        _row("receptive_field", field.after.largest, field.after, side),
        _row("receptive_field_shortest", field.after.smallest, field.after, side),
        Measurement("beyond_border", beyond, split="none", note=why),
    ]


def beyond_border(before: ReceptiveField, side: tuple[int, ...]) -> tuple[float, str]:
    """Whether what goes into a stage has a receptive field larger than the image (1, 0, or NaN), and a note."""
    if any(map(math.isinf, before.smallest)):
        return math.nan, "undefined: its input brings positions of the whole image together"
    image = _pixels(tuple(map(float, side)))
    if all(field > size for field, size in zip(before.smallest, side, strict=True)):
        return 1.0, f"beyond the border: its input sees {_pixels(before.smallest)} pixels of an image of {image}"
    if all(field > size for field, size in zip(before.largest, side, strict=True)):
        shortest = f"the shortest only {_pixels(before.smallest)} pixels"
        return 0.0, f"at risk: the longest path to its input sees more than the image of {image}, {shortest}"
    return 0.0, ""


def _row(metric: str, sizes: tuple[float, ...], field: ReceptiveField, side: tuple[int, ...]) -> Measurement:
    finite = tuple(size if math.isfinite(size) else float(own) for size, own in zip(sizes, side, strict=True))
    notes = []
    if finite != sizes:
        notes.append("the whole image: positions are brought together by pooling, flattening or attention")
    if finite[0] != finite[1]:
        notes.append(f"{_pixels(finite)} pixels")
    if field.assumed:
        notes.append(f"{', '.join(sorted(field.assumed))}: not known, taken to see the whole image")
    return Measurement(metric, min(finite), split="none", note="; ".join(notes))


def _pixels(sizes: tuple[float, ...]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)
