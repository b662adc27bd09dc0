"""Where the images of a network come from: loaders that somebody hands over, or a data set by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lwexplain.adoption.images import loaders_of
from lwexplain.adoption.live import Loaders
from lwexplain.config import Config, load_config
from lwexplain.data.batch_form import BatchForm
from lwexplain.data.given_batches import check_loaders
from lwexplain.data.load import load_data
from lwexplain.data.root import expanded_root
from lwexplain.errors import CaptureError, ConfigError
from lwexplain.program import own_option


@dataclass(frozen=True)
class Source:
    """Images for a network: ``loaders`` by split, the ``form`` of their batches, ``name`` for people, names of
    ``classes`` (None: not known).

    Of a data set by name, ``fingerprint`` and ``part_fingerprints`` identify it and ``config`` reads it again.
    """

    loaders: Loaders
    form: BatchForm
    name: str = "loaders"
    classes: Sequence[str] | None = None
    config: Config = field(default_factory=Config)
    fingerprint: str | None = None
    part_fingerprints: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    max_samples: int | None = None


def source_of(
    given: Any,
    model: nn.Module,
    *,
    classes: Sequence[str] | None,
    form: BatchForm,
    max_samples: int | None,
    seed: int,
) -> Source:
    """The images that ``given`` stands for: a mapping of splits to loaders, the path of a folder with a sub-folder of
    images for each class, or a mapping of the keys of ``data`` in a configuration (``name``, ``root``, ...).

    Raises CaptureError for loaders that are none, ConfigError and DataError for a data set that cannot be read, and
    ConfigError where nobody says how images are normalised.
    """
    if isinstance(given, (str, Path)):
        given = {"name": "folder", "root": str(given)}
    if not isinstance(given, Mapping) or "name" not in given:
        if max_samples is not None:
            raise CaptureError("max_samples is for a data set by name; let the loaders give the images that are wanted")
        return Source(check_loaders(given), form, classes=classes, config=Config(seed=seed))
    mean, std = _normalisation(model, form)
    config = load_config({"seed": seed, "data": dict(given)})
    if config.data.root is not None:
        root = expanded_root(config.data.root).absolute()
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    data = load_data(config.data, config.seed)
    channels = data.shape[0]
    if len(mean) == 1:
        mean, std = mean * channels, std * channels
    if len(mean) != channels:
        raise ConfigError(
            f"mean and std have {len(mean)} values, the images {channels} channels; give one each, or convert the "
            f"images ({own_option('channels')}=1 or 3)"
        )
    if classes is not None and len(classes) != data.num_classes:
        raise ConfigError(f"{len(classes)} classes are named, the data set has {data.num_classes}")
    return Source(
        loaders_of(data, config, mean, std, max_samples),
        BatchForm(mean=mean, std=std),
        data.name,
        classes or data.classes,
        config,
        data.fingerprint,
        dict(data.part_fingerprints),
        data.notes,
        max_samples,
    )


def _normalisation(model: nn.Module, form: BatchForm) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The given mean and standard deviation, else those that a network of timm says it was trained with."""
    if form.mean:
        return form.mean, form.std
    for name in ("pretrained_cfg", "default_cfg"):
        said = getattr(model, name, None)
        if isinstance(said, Mapping) and said.get("mean") and said.get("std"):
            known = BatchForm.of(None, said["mean"], said["std"])
            return known.mean, known.std
    raise ConfigError(
        f"nothing says how images are normalised for this network; give {own_option('mean')} and {own_option('std')} "
        "of each channel as it was trained with (0 and 1 for pixels from 0 to 1)"
    )
