"""Bring the network of an adopted run back on another day: the person passes its code, the run holds its weights."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from lwexplain.adoption.images import images_of_config
from lwexplain.adoption.kept import adoption_of, form_of, has_final_norm, kept_val, read_samples
from lwexplain.adoption.live import Live, Loaders, keep_live
from lwexplain.adoption.weights import load_stored_weights, weights_of
from lwexplain.capture.extract import capturing
from lwexplain.devices import pick_device
from lwexplain.errors import RunError
from lwexplain.models.modules import unwrap
from lwexplain.run import Run

ALIKE = 1e-3
"""Largest difference of features to those that were kept, as a share of their largest value: another machine or another
number of threads adds in another order."""


def attach(run: Run, model: nn.Module, *, own: bool, device: str | None = None) -> Run:
    """The run with its network at hand. ``own``: the model was built for this, and takes on the run's weights; else it
    must have them.

    Raises RunError where the run was not adopted, the model is built otherwise or has other weights, or makes other
    features of the sample images than those that the run holds.
    """
    if not run.is_adopted:
        raise RunError(
            f"{run.path} was trained by lwexplain, which builds its network by config.yaml; leave the model out"
        )
    network = unwrap(model)
    if own:
        load_stored_weights(run, network)
    elif weights_of(network).digest != adoption_of(run).get("weights"):
        raise RunError(
            f"the network has other weights than the one that {run.path} was adopted from; load those, or adopt it "
            "into another run"
        )
    place = pick_device(device) if device else _device_of(network)
    _require_same_features(run, network, place)
    return keep_live(run, Live(network, _loaders_of(run), form_of(run), place))


def _loaders_of(run: Run) -> Callable[[], Loaders]:
    def loaders() -> Mapping[str, Iterable[Any]]:
        if adoption_of(run).get("images") != "config":
            raise RunError(
                f"the images of {run.path} came from loaders, which no file holds; call lw.adopt(model, loaders, "
                f"out={str(run.path)!r}) again and use the run that it returns"
            )
        return images_of_config(run)

    return loaders


def _require_same_features(run: Run, model: nn.Module, device: torch.device) -> None:
    """Raise RunError where the model makes other features of the sample images than the run holds."""
    samples, stages = read_samples(run), list(run.manifest["stages"])
    key = run.read_json("analysis/features/key.json")
    if samples is None or not isinstance(key, Mapping):
        return  # nothing is kept that could differ
    captured, pooling = kept_val(run), str(key.get("pooling", "auto"))
    with capturing(model, stages, pooling=pooling, device=device, final_norm=has_final_norm(run)) as read:
        found = read((samples.images, torch.from_numpy(samples.labels)))
    for stage in stages:
        before = np.asarray(captured.features[stage][samples.positions])
        now = found.features.get(stage)
        if now is None or now.shape != before.shape:
            raise RunError(f"the network gives other features at {stage} than when {run.path} was adopted; {ADVICE}")
        apart = float(np.abs(now - before).max() / max(float(np.abs(before).max()), 1e-12))
        if not apart <= ALIKE:
            raise RunError(
                f"the network gives features at {stage} that differ by {apart:.1%} from those when {run.path} was "
                f"adopted; {ADVICE}"
            )


ADVICE = "its code or its settings have changed: pass it as it was, or adopt it into another run"


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
