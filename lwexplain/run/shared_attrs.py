"""Attributes that all copies of a table share: pandas copies them at every step, and of many samples they are large."""

from collections.abc import Mapping
from typing import Any


class SharedMapping(dict[str, Any]):
    """A mapping that nobody changes: its copy is itself."""

    def __copy__(self) -> "SharedMapping":
        return self

    def __deepcopy__(self, memo: Any) -> "SharedMapping":
        return self


def shared_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The same attributes, whose mappings are shared by the copies of the table that gets them."""
    return {name: SharedMapping(value) if isinstance(value, dict) else value for name, value in attrs.items()}
