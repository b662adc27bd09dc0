"""What an adopted run reaches beyond its files: the network itself and its images, in this process alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from lwexplain.data.batch_form import BatchForm
from lwexplain.errors import RunError
from lwexplain.program import at_command_line
from lwexplain.run import Run

Loaders = Mapping[str, Iterable[Any]]


@dataclass(eq=False)
class Live:
    """``network`` with the weights of the run, on ``device`` wherever it lies; ``loaders()`` gives an iterable of
    batches for each split, of this ``form``, and raises RunError where nobody has passed any."""

    network: nn.Module
    loaders: Callable[[], Loaders]
    form: BatchForm
    device: torch.device


_LIVE: WeakValueDictionary[str, Live] = WeakValueDictionary()
"""By the id of their run, for a run that is opened again while its network is still held by another ``Run``."""


def keep_live(run: Run, live: Live) -> Run:
    """The run, which holds the network as long as it lives; no file says so."""
    run.live = live
    _LIVE[str(run.manifest.get("id"))] = live
    return run


def live_of(run: Run) -> Live | None:
    """The network of an adopted run, where this process has it."""
    return run.live if isinstance(run.live, Live) else _LIVE.get(str(run.manifest.get("id")))


def require_live(run: Run, purpose: str) -> Live:
    """The network of an adopted run; raises RunError, which says how to pass it, where this process has it not."""
    found = live_of(run)
    if found is None:
        how = "pass it with --model package.module:factory" if at_command_line() else "pass it with model=..."
        raise RunError(
            f"{purpose} needs the network that {run.path} was adopted from, whose code no run directory holds; {how}"
        )
    return found
