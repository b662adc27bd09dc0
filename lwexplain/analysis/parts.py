"""The results of single probes, each kept in a folder of its own, from which an analysis is put together.

::

    analysis/parts/PROBE/part.json            key, failures, seconds; what the probe declares of its metrics;
                                              attribution stages, targets, validity and notes
    analysis/parts/PROBE/rows.parquet         measurements
    analysis/parts/PROBE/predictions.parquet
    analysis/parts/PROBE/embedding.METHOD.parquet
    analysis/parts/PROBE/attribution.METHOD.npy
    analysis/parts/PROBE/linear_probes.safetensors   the fitted probes, where the probe fits some

A part is whole or not there: it is written beside its place and renamed. Its key says what it was made of (weights,
images, sub-sample, pooling, precision) and by which probe with which settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from lwexplain.errors import ProbeError, RunError
from lwexplain.metrics import stored_metrics
from lwexplain.probes.base import ProbeDefaults
from lwexplain.probes.engine import order_of
from lwexplain.probes.tables import ProbeRun
from lwexplain.results import EMBEDDING_COLUMNS, METRIC_COLUMNS, PREDICTION_COLUMNS, AttributionSet
from lwexplain.results.checks import check_embedding, check_predictions, check_rows, is_metrics
from lwexplain.run.binary_files import map_array, read_table, write_array, write_table
from lwexplain.run.fields import is_count, is_number
from lwexplain.run.files import RunFiles, is_plain_name
from lwexplain.version import VERSION

MOST_EXTRA = 2**30
"""Bytes of a file that a probe keeps for another one."""


@dataclass
class Part:
    """What one probe found. ``settings`` None means that nobody can say whether it would find the same again.

    ``order`` says where its results stand among those of the others.
    """

    probe: str
    settings: dict[str, Any] | None
    found: ProbeRun
    order: int = ProbeDefaults.order
    extra: dict[str, bytes] = field(default_factory=dict)  # files that another probe of the same stages may want


class PartStore:
    """The parts under ``files`` that were made of the features of ``key``."""

    def __init__(self, files: RunFiles, key: Mapping[str, Any]) -> None:
        self.files = files
        self.key = {**key, "lwexplain": VERSION}

    def names(self) -> list[str]:
        """Probes whose parts are whole and belong to the key."""
        names = {unquote(folder) for folder in self.files.folder_names() if folder == _folder_of(unquote(folder))}
        return sorted(name for name in names if self._header(name) is not None)

    def settings(self, probe: str) -> dict[str, Any] | None:
        """The settings a probe's part was made with; None where it is to be made anew (missing, failed, unknown)."""
        header = self._header(probe)
        return None if header is None or header["failures"] else header["settings"]

    def load(self, probe: str) -> Part | None:
        """A part; None where it is missing, made of something else, or damaged."""
        header = self._header(probe)
        if header is None:
            return None
        folder = self.files.within(_folder_of(probe))
        try:
            rows = _checked(read_table(folder, "rows.parquet"), METRIC_COLUMNS, check_rows)
            predictions = read_table(folder, "predictions.parquet")
            layouts = {name: read_table(folder, f"embedding.{name}.parquet") for name in header["layouts"]}
            found = ProbeRun(
                rows=[{str(name): value for name, value in row.items()} for row in rows.to_dict("records")],
                predictions=_checked(predictions, PREDICTION_COLUMNS, check_predictions),
                embeddings={
                    name: _checked(frame, EMBEDDING_COLUMNS, check_embedding) for name, frame in layouts.items()
                },
                attributions={
                    name: AttributionSet(
                        name,
                        about["stages"],
                        np.array(map_array(folder, f"attribution.{name}.npy")),
                        np.asarray(about["targets"]),
                        about["valid"],
                        about["notes"],
                        about["image_notes"],
                    )
                    for name, about in header["attributions"].items()
                },
                failures=header["failures"],
                seconds={probe: header["seconds"]},
                metrics=stored_metrics(header.get("metrics", {})),
            )
            extra = {name: folder.read_bytes(name, MOST_EXTRA) for name in header["extra"]}
        except (RunError, ProbeError, ValueError, KeyError, TypeError):
            return None
        return Part(probe, header["settings"], found, header.get("order", order_of(probe)), extra)

    def save(self, part: Part) -> None:
        """Put a part in the place of the one before; raises RunError where the disk is full."""
        try:
            with self.files.replacing_folder(_folder_of(part.probe)) as folder:
                self._write(folder, part)
        except RunError as error:
            raise RunError(f"{error}; free space and run the analysis again, it goes on from here") from None

    def _write(self, folder: RunFiles, part: Part) -> None:
        found = part.found
        write_table(folder, "rows.parquet", pd.DataFrame(found.rows, columns=METRIC_COLUMNS))
        write_table(folder, "predictions.parquet", found.predictions[PREDICTION_COLUMNS])
        for name, frame in found.embeddings.items():
            write_table(folder, f"embedding.{name}.parquet", frame)
        for name, maps in found.attributions.items():
            write_array(folder, f"attribution.{name}.npy", maps.maps.astype(np.float32))
        for name, content in part.extra.items():
            with folder.replacing(name) as temporary:
                temporary.write_bytes(content)
        header = {
            "key": self.key,
            "settings": part.settings,
            "failures": found.failures,
            "seconds": found.seconds.get(part.probe, 0.0),
            "layouts": list(found.embeddings),
            "attributions": {
                name: {
                    "stages": maps.stages,
                    "targets": maps.targets.tolist(),
                    "valid": maps.valid,
                    "notes": maps.notes,
                    "image_notes": maps.image_notes,
                }
                for name, maps in found.attributions.items()
            },
            "extra": list(part.extra),
            "order": part.order,
            "metrics": {name: metric.to_dict() for name, metric in found.metrics.items()},
        }
        folder.write_json("part.json", header)

    def _header(self, probe: str) -> dict[str, Any] | None:
        """What ``part.json`` says; None where it is missing, of another key, or not what is written there."""
        try:
            header = self.files.read_json(f"{_folder_of(probe)}/part.json")
        except RunError:
            return None
        return header if isinstance(header, dict) and header.get("key") == self.key and _is_header(header) else None


def _checked(frame: pd.DataFrame, columns: Sequence[str], check: Callable[..., None]) -> pd.DataFrame:
    """The table of a part, which may be empty; raises ValueError where it is not what is written there."""
    if list(frame.columns) != list(columns):
        raise ValueError("it has other columns")
    if len(frame) and check is check_rows:
        check(frame)
    elif len(frame):
        check(frame, columns)
    return frame


def _is_header(header: dict[str, Any]) -> bool:
    """Whether ``part.json`` holds all that it must, and no name that could lead to another file."""
    attributions, settings = header.get("attributions"), header.get("settings")
    return (
        isinstance(attributions, dict)
        and (settings is None or isinstance(settings, dict))
        and all(_is_names(header.get(key)) for key in ("layouts", "extra"))
        and all(is_plain_name(name) and _is_attribution(about) for name, about in attributions.items())
        and isinstance(header.get("failures"), list)
        and all(_is_failure(failure) for failure in header["failures"])
        and is_number(header.get("seconds"))
        and is_count(header.get("order", 0))
        and is_metrics(header.get("metrics", {}))
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_plain_name, value)) and len(set(value)) == len(value)


def _is_attribution(about: Any) -> bool:
    if not isinstance(about, dict):
        return False
    lists = [about.get(key) for key in ("stages", "targets", "valid", "notes", "image_notes")]
    return all(isinstance(value, list) and len(value) == len(lists[0] or ()) for value in lists)


def _is_failure(failure: Any) -> bool:
    return isinstance(failure, dict) and all(
        failure.get(key) is None or isinstance(failure[key], str) for key in ("probe", "stage", "error")
    )


def _folder_of(probe: str) -> str:
    """The name of a probe's folder; a probe may have any name."""
    return quote(probe, safe=" ").replace(".", "%2E")
