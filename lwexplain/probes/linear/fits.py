"""Fitted linear probes as bytes, so that a later analysis, and the shorter network, start from the same ones."""

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lwexplain.probes.base import StageData
from lwexplain.probes.linear.probe import LinearProbe, remember_probe, remembered_probe

FITS = "linear_probes.safetensors"
"""The file of the fits among the results that are kept of the probe ``linear``."""


def fits_of(stages: Sequence[StageData], probe: str) -> bytes | None:
    """The fits that the probe ``linear`` left with every stage; None for another probe or without them."""
    found = [fit for stage in stages if (fit := remembered_probe(stage)) is not None]
    if probe != "linear" or len(found) < len(stages):
        return None
    tensors: dict[str, torch.Tensor] = {}
    for stage, fit in zip(stages, found, strict=True):
        tensors[f"{stage.name}.weight"], tensors[f"{stage.name}.bias"] = fit.weight, fit.bias
        tensors[f"{stage.name}.fit"] = torch.tensor([fit.c, fit.loss, float(fit.converged)], dtype=torch.float64)
        tensors[f"{stage.name}.accuracies"] = torch.tensor(list(fit.accuracies.items()), dtype=torch.float64)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def remember_fits(stages: Sequence[StageData], content: bytes | None) -> None:
    """Have each stage remember its fit again; one that does not suit its stage is left out, and fitted when needed."""
    if content is None:
        return
    try:
        tensors = load(content)
    except SafetensorError:
        return
    for stage in stages:
        names = [f"{stage.name}.{part}" for part in ("weight", "bias", "fit", "accuracies")]
        if all(name in tensors for name in names):
            weight, bias, fit, accuracies = (tensors[name] for name in names)
            if not _is_a_fit(stage, weight, bias, fit, accuracies):
                continue
            c, loss, converged = fit.tolist()
            by_c = {float(key): float(value) for key, value in accuracies.tolist()}
            remember_probe(stage, LinearProbe(weight, bias, c, loss, bool(converged), by_c))


def _is_a_fit(
    stage: StageData, weight: torch.Tensor, bias: torch.Tensor, fit: torch.Tensor, accuracies: torch.Tensor
) -> bool:
    """Whether the parts have the shapes and types of a fit of the stage, and are finite."""
    classes, width = len(stage.classes), stage.features["train"].shape[1]
    shapes = weight.shape == (classes, width) and bias.shape == (classes,)
    shapes = shapes and fit.shape == (3,) and accuracies.ndim == 2 and accuracies.shape[1] == 2
    parts = (weight, bias, fit, accuracies)
    return shapes and all(part.dtype == torch.float64 and bool(torch.isfinite(part).all()) for part in parts)
