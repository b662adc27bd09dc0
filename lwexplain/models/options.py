"""Checks of the numbers that a person gives as options of a model or a head."""

import math
from collections.abc import Sequence
from typing import Any

from lwexplain.errors import ModelError


def check_whole_number(key: str, value: Any) -> None:
    """Raise ModelError, naming ``key``, unless ``value`` is an integer of at least 1."""
    if not _is_positive(value, whole=True):
        raise ModelError(f"{key}={value!r} must be a whole number of at least 1")


def check_positive_numbers(key: str, values: Any, *, whole: bool = False) -> None:
    """Raise ModelError, naming ``key``, unless ``values`` is a list of positive numbers, integers if ``whole``."""
    fits = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    if not fits or not all(_is_positive(value, whole) for value in values):
        raise ModelError(f"{key}={values!r} must be a list of positive {'whole ' if whole else ''}numbers, one a group")


def _is_positive(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return 0 < value < math.inf
