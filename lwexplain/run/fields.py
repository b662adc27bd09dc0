"""What the fields of ``run.json`` and of a line of ``events.jsonl`` may hold, whoever wrote them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lwexplain.arguments import shown

MOST_STAGES = 4096
MOST_CLASSES = 50_000
MOST_CHANNELS = 4096
LONGEST_TEXT = 10_000

Check = Callable[[Any], bool]


def is_text(value: Any) -> bool:
    """A text of a length that a person can read."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def is_number(value: Any) -> bool:
    """A finite number that is not negative."""
    return is_finite(value) and value >= 0


def is_finite(value: Any) -> bool:
    """A finite number, also a negative one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """A whole number that is not negative."""
    return type(value) is int and value >= 0


def is_depth(value: Any) -> bool:
    """A number of stages."""
    return type(value) is int and 1 <= value <= MOST_STAGES


def is_names(value: Any, most: int) -> bool:
    """A list of 1 to ``most`` texts."""
    return isinstance(value, list) and 1 <= len(value) <= most and all(map(is_text, value))


def is_share(value: Any) -> bool:
    """A number in [0, 1]."""
    return is_number(value) and value <= 1


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _mapping_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(is_count(side) and side > 0 for side in value)


def _is_channels(value: Any) -> bool:
    numbers = isinstance(value, list) and all(type(item) in (int, float) and math.isfinite(item) for item in value)
    return numbers and 1 <= len(value) <= MOST_CHANNELS


def _is_file_entry(value: Any) -> bool:
    return isinstance(value, dict) and is_count(value.get("bytes")) and is_text(value.get("sha256"))


TEXT: tuple[Check, str] = (is_text, f"text of at most {LONGEST_TEXT:,} characters")
MAYBE_TEXT: tuple[Check, str] = (_or_none(is_text), TEXT[1])
NUMBER: tuple[Check, str] = (is_number, "a number of at least 0")
FINITE: tuple[Check, str] = (is_finite, "a finite number")
COUNT: tuple[Check, str] = (is_count, "a whole number of at least 0")
SHARE: tuple[Check, str] = (is_share, "a number from 0 to 1")
DEPTH: tuple[Check, str] = (is_depth, f"a whole number from 1 to {MOST_STAGES:,}")

MANIFEST: dict[str, tuple[Check, str]] = {
    "id": TEXT,
    "created": TEXT,
    "status": TEXT,
    "progress": MAYBE_TEXT,
    "stopped": MAYBE_TEXT,
    "model": TEXT,
    "strategy": MAYBE_TEXT,
    "seconds": NUMBER,
    "trained_depth": DEPTH,
    "stages": (lambda value: is_names(value, MOST_STAGES), f"a list of at most {MOST_STAGES:,} names"),
    "costs": (
        _mapping_of(lambda value: is_number(value) or _mapping_of(is_number)(value)),
        "a mapping of names to numbers of at least 0",
    ),
    "files": (_mapping_of(_is_file_entry), "a mapping of names to bytes and sha256"),
    "data": (lambda value: isinstance(value, dict), "a mapping"),
    "monitor": (lambda value: isinstance(value, dict), "a mapping"),
    "adoption": (lambda value: isinstance(value, dict), "a mapping"),
}
ADOPTION: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(("weights", "images", "order"), TEXT),
    "notes": (lambda value: isinstance(value, list) and all(map(is_text, value)), "a list of texts"),
    "max_samples": (_or_none(is_count), "a whole number of at least 0"),
    **dict.fromkeys(("were_pixels", "final_norm"), (lambda value: isinstance(value, bool), "true or false")),
}
DATA: dict[str, tuple[Check, str]] = {
    "name": TEXT,
    "fingerprint": TEXT,
    "classes": (lambda value: is_names(value, MOST_CLASSES), f"a list of at most {MOST_CLASSES:,} names"),
    "shape": (_is_shape, "three whole numbers of at least 1"),
    "sizes": (_mapping_of(is_count), "a mapping of splits to numbers of images"),
    **dict.fromkeys(("mean", "std"), (_or_none(_is_channels), "a number for each channel")),
}
MONITOR: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(("images", "images_a_look", "classes", "every"), COUNT),
    **dict.fromkeys(("chance", "overhead"), NUMBER),
}
LOOK_INTERVALS = ("linear_probe_accuracy", "ncm_accuracy", "separability_index")
"""What a look measures with a 95 % interval, whose ends stand beside it as ``METRIC_low`` and ``METRIC_high``."""

LOOK_METRICS = (*LOOK_INTERVALS, "effective_rank", "cka_linear", "drift")
"""What a look measures of a stage, each a field of its event where there is a value."""

EVENT: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(("event", "stage", "reason"), TEXT),
    "depth": DEPTH,
    **dict.fromkeys(("epoch", "epochs", "frozen", "parameters", "activation_bytes", "peak_memory_bytes"), COUNT),
    **dict.fromkeys(("prefix_bytes", "prefix_views"), COUNT),
    **dict.fromkeys(("train_accuracy", "val_accuracy", "lr", "seconds"), NUMBER),
    **dict.fromkeys(("images_per_second", "step_flops"), NUMBER),
    **{f"{metric}{end}": SHARE for metric in LOOK_INTERVALS for end in ("", "_low", "_high")},
    **dict.fromkeys(("n", "images"), COUNT),
    "effective_rank": NUMBER,
    **dict.fromkeys(("cka_linear", "drift"), FINITE),
    **dict.fromkeys(
        ("train_loss", "val_loss"),
        (lambda value: isinstance(value, (int, float)) and not isinstance(value, bool), "a number"),
    ),
}


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, where ``run.json`` holds what it cannot hold; fields may be absent."""
    _check(manifest, MANIFEST)
    _check(manifest.get("data", {}), DATA, "data.")
    _check(manifest.get("monitor", {}), MONITOR, "monitor.")
    _check(manifest.get("adoption", {}), ADOPTION, "adoption.")


def check_event(event: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the field, where an event holds what it cannot hold; fields may be absent."""
    _check(event, EVENT)


def _check(fields: Mapping[str, Any], known: Mapping[str, tuple[Check, str]], prefix: str = "") -> None:
    for name, (check, expected) in known.items():
        if name in fields and not check(fields[name]):
            raise ValueError(f"{prefix}{name} is {shown(fields[name])}, expected {expected}")
