"""The feature cache of a run: captured features as .npy files, valid for one key, complete or not there."""

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lwexplain.capture.extract import Captured
from lwexplain.run import atomic_path


class FeatureStore:
    """Features of all splits under ``folder``, made for ``key`` (weights, data, sub-sample, pooling).

    What was made for another key is deleted. A split counts as present once its ``split.json`` is written.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        self.folder = folder
        marker = folder / "key.json"
        if _read_json(marker) != key:
            shutil.rmtree(folder, ignore_errors=True)
            with atomic_path(marker) as temporary:
                temporary.write_text(json.dumps(key))

    def split_folder(self, split: str) -> Path:
        return self.folder / split

    def load(self, split: str) -> Captured | None:
        """The captured split, features memory-mapped; None where it is missing or damaged."""
        folder = self.split_folder(split)
        content = _read_json(folder / "split.json")
        if content is None:
            return None
        try:
            return Captured(
                features={name: _load(folder / _file("", name)) for name in content["stages"]},
                labels=_load(folder / "labels.npy"),
                logits={name: np.asarray(_load(folder / _file("logits.", name))) for name in content["heads"]},
                index=_load(folder / "index.npy"),
            )
        except (OSError, ValueError, KeyError):
            return None

    def save(self, split: str, captured: Captured) -> None:
        """Complete a split whose features ``extract`` has already written to ``split_folder``."""
        folder = self.split_folder(split)
        assert captured.index is not None
        np.save(folder / "labels.npy", captured.labels, allow_pickle=False)
        np.save(folder / "index.npy", captured.index, allow_pickle=False)
        for name, rows in captured.logits.items():
            np.save(folder / _file("logits.", name), rows, allow_pickle=False)
        content = {"stages": list(captured.features), "heads": list(captured.logits)}
        with atomic_path(folder / "split.json") as temporary:
            temporary.write_text(json.dumps(content))


def _file(prefix: str, stage: str) -> str:
    return f"{prefix}{quote(stage, safe='')}.npy"


def _load(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
