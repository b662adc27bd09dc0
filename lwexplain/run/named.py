"""The run that somebody named: itself, or the directory it lies in."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from lwexplain.arguments import path_of, shown
from lwexplain.errors import ConfigError, RunError
from lwexplain.run.directory import Run


def run_of(value: Any, what: str = "the run") -> Run:
    """The run itself, or the one in the run directory that was named."""
    if isinstance(value, Run):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise RunError(f"{what} is {shown(value)}; give a Run (what lw.train returns) or the path of a run directory")
    return Run.open(path_of(what, value))


def runs_of(value: Any) -> list[Run]:
    """Two or more runs."""
    if isinstance(value, (str, os.PathLike, Run, Mapping)) or not isinstance(value, Iterable):
        raise ConfigError(f"compare needs two or more runs in a list, found {shown(value)}; write [first, second]")
    items = list(value)
    if len(items) < 2:
        raise ConfigError(f"compare needs two or more runs, found {len(items)}; write [first, second]")
    return [run_of(item, f"run {number} of {len(items)}") for number, item in enumerate(items, start=1)]
