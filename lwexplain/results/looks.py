"""What the looks of a monitor left in the log of a run, as a long table; loads no torch."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from lwexplain.run.fields import LOOK_METRICS

LOOK_COLUMNS = ["epoch", "stage", "depth", "metric", "value", "low", "high", "n"]
LOOK = "look"
"""The name of the event that one look at one stage is."""


def looks_table(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each epoch, stage and metric of the looks among ``events``, in the order of epochs and depths.

    ``low`` and ``high`` are the 95 % interval, NaN where there is none; ``n`` the images behind the value.
    """
    rows = []
    for event in _valid_looks(events):
        for metric in LOOK_METRICS:
            if metric in event:
                n = event.get("n") if metric.endswith("_accuracy") else event.get("images")
                about = {name: event[name] for name in ("epoch", "stage", "depth")}
                ends = {"low": event.get(f"{metric}_low"), "high": event.get(f"{metric}_high"), "n": n}
                rows.append({**about, "metric": metric, "value": event[metric], **ends})
    table = pd.DataFrame(rows, columns=LOOK_COLUMNS)
    return table.astype({"value": float, "low": float, "high": float})


def troubles_of_last_look(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """For each stage that the last look could not measure the reason."""
    looks = _valid_looks(events)
    last = [event for event in looks if event["epoch"] == looks[-1]["epoch"]]
    return {event["stage"]: event["reason"] for event in last if "reason" in event}


def _valid_looks(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The events of looks, by epoch and depth, without those of epochs that the training went back behind."""
    found: dict[int, dict[int, Mapping[str, Any]]] = {}
    latest = -1
    for event in events:
        if event.get("event") != LOOK or not {"epoch", "stage", "depth"} <= event.keys():
            continue
        epoch, depth = event["epoch"], event["depth"]
        if epoch < latest or depth in found.get(epoch, ()):  # it went on from an earlier checkpoint
            found = {known: stages for known, stages in found.items() if known < epoch}
        latest = epoch
        found.setdefault(epoch, {})[depth] = event
    return [found[epoch][depth] for epoch in sorted(found) for depth in sorted(found[epoch])]
