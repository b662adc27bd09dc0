"""The results of single probes, each kept in a folder of its own, from which an analysis is put together.

::

    analysis/parts/PROBE/part.json            key, failures, seconds; attribution stages, targets, validity and notes
    analysis/parts/PROBE/rows.parquet         measurements
    analysis/parts/PROBE/predictions.parquet
    analysis/parts/PROBE/embedding.METHOD.parquet
    analysis/parts/PROBE/attribution.METHOD.npy
    analysis/parts/PROBE/linear_probes.safetensors   the fitted probes, where the probe fits some

A part is whole or not there: it is written beside its place and renamed. Its key says what it was made of (weights,
images, sub-sample, pooling, precision) and by which probe with which settings.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

import lwexplain
from lwexplain.errors import RunError
from lwexplain.probes.tables import ProbeRun
from lwexplain.results import METRIC_COLUMNS, PREDICTION_COLUMNS, AttributionSet


@dataclass
class Part:
    """What one probe found. ``settings`` None means that nobody can say whether it would find the same again."""

    probe: str
    settings: dict[str, Any] | None
    found: ProbeRun
    extra: dict[str, bytes] = field(default_factory=dict)  # files that another probe of the same stages may want


class PartStore:
    """The parts under ``folder`` that were made of the features of ``key``."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self.key = {**key, "lwexplain": lwexplain.__version__}

    def names(self) -> list[str]:
        """Probes whose parts are whole and belong to the key."""
        names = [unquote(path.name) for path in self.folder.glob("*") if not path.name.startswith(".")]
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
        folder = self._place(probe)
        try:
            rows = pd.read_parquet(folder / "rows.parquet")
            found = ProbeRun(
                rows=[{str(name): value for name, value in row.items()} for row in rows.to_dict("records")],
                predictions=pd.read_parquet(folder / "predictions.parquet"),
                embeddings={name: pd.read_parquet(folder / f"embedding.{name}.parquet") for name in header["layouts"]},
                attributions={
                    name: AttributionSet(
                        name,
                        about["stages"],
                        np.load(folder / f"attribution.{name}.npy", allow_pickle=False),
                        np.asarray(about["targets"]),
                        about["valid"],
                        about["notes"],
                    )
                    for name, about in header["attributions"].items()
                },
                failures=header["failures"],
                seconds={probe: header["seconds"]},
            )
            extra = {name: (folder / name).read_bytes() for name in header["extra"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Part(probe, header["settings"], found, extra)

    def save(self, part: Part) -> None:
        """Put a part in the place of the one before; raises RunError where the disk is full."""
        place = self._place(part.probe)
        new = place.with_name(f".{place.name}.{os.getpid()}.new")
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            self._write(new, part)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(new, place)
        except OSError as error:
            raise RunError(
                f"cannot write {place}: {error.strerror or error}; free space and run the analysis again, it goes on "
                "from here"
            ) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _write(self, folder: Path, part: Part) -> None:
        found = part.found
        pd.DataFrame(found.rows, columns=METRIC_COLUMNS).to_parquet(folder / "rows.parquet", index=False)
        found.predictions[PREDICTION_COLUMNS].to_parquet(folder / "predictions.parquet", index=False)
        for name, frame in found.embeddings.items():
            frame.to_parquet(folder / f"embedding.{name}.parquet", index=False)
        for name, maps in found.attributions.items():
            np.save(folder / f"attribution.{name}.npy", maps.maps.astype(np.float32), allow_pickle=False)
        for name, content in part.extra.items():
            (folder / name).write_bytes(content)
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
                }
                for name, maps in found.attributions.items()
            },
            "extra": list(part.extra),
        }
        (folder / "part.json").write_text(json.dumps(header))

    def _header(self, probe: str) -> dict[str, Any] | None:
        try:
            header = json.loads((self._place(probe) / "part.json").read_text())
        except (OSError, ValueError):
            return None
        return header if isinstance(header, dict) and header.get("key") == self.key else None

    def _place(self, probe: str) -> Path:
        return self.folder / quote(probe, safe=" ")
