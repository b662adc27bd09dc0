"""What a probe returned, checked: the one gate between foreign code and the tables."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from lwexplain.errors import ProbeError
from lwexplain.probes.base import Attribution, Embedding, Measurement, Predictions, Result, StageData

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
NO_SPLIT = "none"

RESERVED_METHODS = ("images", "index")
"""Names that no method may have: files of these names stand beside the heat maps."""


def check_results(stage: StageData, returned: Any) -> list[Result]:
    """What a probe returned for ``stage``, as results of plain types that fit the stage and its tables.

    The one gate between foreign code and the tables. Arrays are copies: int64 for classes and samples, float32 for
    coordinates and maps. Raises ProbeError where anything does not fit; a value that cannot even be looked at may
    raise whatever it likes.
    """
    return [_check(stage, item) for item in _items(returned)]


def _items(returned: Any) -> Sequence[Any]:
    if isinstance(returned, Mapping):
        return [Measurement(metric, value) for metric, value in returned.items()]
    if isinstance(returned, Result):
        return [returned]
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Sequence):
        raise ProbeError(
            f"it returned {type(returned).__name__}; expected a dict of metric to number "
            "or a list of Measurement, Predictions, Embedding or Attribution"
        )
    return returned


def _check(stage: StageData, item: Any) -> Result:
    if isinstance(item, Measurement):
        return _check_measurement(stage, item)
    if isinstance(item, Predictions):
        return _check_predictions(stage, item)
    if isinstance(item, Embedding):
        return _check_embedding(stage, item)
    if isinstance(item, Attribution):
        return _check_attribution(stage, item)
    raise ProbeError(f"it returned a list that holds {_shown(item)}, which is no Measurement")


def _check_measurement(stage: StageData, item: Measurement) -> Measurement:
    metric = _name("metric", item.metric)
    value = _number(metric, item.value)
    low = None if item.low is None else _number(f"{metric}: low", item.low)
    high = None if item.high is None else _number(f"{metric}: high", item.high)
    if low is not None and high is not None and low > high:
        raise ProbeError(f"{metric}: low is {low:g}, above high, which is {high:g}")
    if metric.endswith("_accuracy") and not (0 <= value <= 1 or math.isnan(value)):
        raise ProbeError(f"{metric} is {value:g}; an accuracy is a share in [0, 1]")
    n = item.n
    if n is not None and (not isinstance(n, Integral) or isinstance(n, bool) or not 0 <= n < 2**63):
        raise ProbeError(f"{metric}: n is {_shown(n)}; expected a number of samples (int) or None")
    return Measurement(
        metric,
        value,
        _split(stage, metric, item.split, besides=(NO_SPLIT,)),
        class_=None if item.class_ is None else _text(f"{metric}: class_", item.class_),
        low=low,
        high=high,
        n=None if n is None else int(n),
        note=_text(f"{metric}: note", item.note),
    )


def _check_predictions(stage: StageData, item: Predictions) -> Predictions:
    source = _name("source", item.source)
    split = _split(stage, f"predictions of {source}", item.split)
    n = len(stage.labels[split])
    predicted = np.asarray(item.predicted)
    if predicted.shape != (n,):
        raise ProbeError(f"{source}: {predicted.shape} predictions for {n} {split} samples")
    return Predictions(source, split, _integers(f"{source}: predictions", predicted, len(stage.classes)))


def _check_embedding(stage: StageData, item: Embedding) -> Embedding:
    method = _name("method", item.method)
    split = _split(stage, f"embedding {method}", item.split)
    samples = np.asarray(item.samples)
    if samples.ndim != 1 or len(samples) == 0:
        raise ProbeError(f"{method}: samples have shape {samples.shape}; expected (N,) with N at least 1")
    samples = _integers(f"{method}: samples", samples, len(stage.labels[split]))
    if len(np.unique(samples)) < len(samples):
        raise ProbeError(f"{method}: a sample occurs twice; each has one place")
    coordinates = _floats(f"{method}: coordinates", item.coordinates)
    if coordinates.shape != (len(samples), 2):
        raise ProbeError(f"{method}: coordinates {coordinates.shape}; expected ({len(samples)}, 2)")
    return Embedding(method, split, coordinates, samples)


def _check_attribution(stage: StageData, item: Attribution) -> Attribution:
    method = _name("method", item.method)
    if method.lower() in RESERVED_METHODS:
        raise ProbeError(f"method {method!r} is a reserved name; give the maps another one")
    if stage.images is None:
        raise ProbeError(f"{method}: heat maps, but this analysis has no sample images to explain")
    maps, targets = _floats(f"{method}: maps", item.maps), np.asarray(item.targets)
    m = len(stage.images)
    if maps.ndim != 3 or maps.shape[0] != m or maps.size == 0 or targets.shape != (m,):
        raise ProbeError(
            f"{method}: maps {maps.shape} and targets {targets.shape}; expected (M, H, W) and (M,), "
            f"one for each of the M = {m} sample images"
        )
    if not isinstance(item.valid, (bool, np.bool_)):
        raise ProbeError(f"{method}: valid is {_shown(item.valid)}; expected True or False")
    targets = _integers(f"{method}: targets", targets, len(stage.classes))
    notes = [_text(f"{method}: note of an image", note) for note in item.image_notes] or [""] * m
    if len(notes) != m:
        raise ProbeError(f"{method}: {len(notes)} notes for single images; expected one for each of the {m} images")
    return Attribution(method, maps, targets, bool(item.valid), _text(f"{method}: note", item.note), notes)


def _name(what: str, name: Any) -> str:
    """Names become columns of tables and names of files, so few characters are allowed."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ProbeError(
            f"{what} name {_shown(name)} must be letters, digits and _, begin with a letter and have at most 64 of them"
        )
    return str(name)


def _text(what: str, text: Any) -> str:
    if not isinstance(text, str):
        raise ProbeError(f"{what} is {_shown(text)}; expected text (str)")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ProbeError(f"{what} is {_shown(text)}, which is no valid Unicode text") from None
    return str(text)


def _split(stage: StageData, what: str, split: Any, besides: tuple[str, ...] = ()) -> str:
    known = (*stage.labels, *besides)
    if not isinstance(split, str) or split not in known:
        raise ProbeError(f"{what}: split {_shown(split)}, which the stage does not have; expected {', '.join(known)}")
    return str(split)


def _number(what: str, value: Any) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise ValueError
        return float(value)
    except Exception:
        raise ProbeError(f"{what} is {_shown(value)}, not a number") from None


def _integers(what: str, values: np.ndarray, below: int) -> np.ndarray:
    """``values`` as int64 in [0, below)."""
    if values.dtype.kind not in "iu":
        raise ProbeError(f"{what} are of type {values.dtype}; expected integers")
    if len(values) and not (values.min() >= 0 and values.max() < below):
        raise ProbeError(f"{what} run from {values.min()} to {values.max()}, beyond 0 to {below - 1}")
    return values.astype(np.int64)


def _floats(what: str, values: Any) -> np.ndarray:
    """``values`` as float32, all of them finite."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ProbeError(f"{what} are of type {array.dtype}; expected numbers")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ProbeError(f"{what} hold NaN, infinity or numbers beyond float32")
    return array


def _shown(value: Any, longest: int = 60) -> str:
    """A foreign value in a message: short, and never a reason to fail."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
