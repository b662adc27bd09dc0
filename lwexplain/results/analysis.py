"""What an analysis is in memory: its key, its tables and arrays."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.run import Run
from lwexplain.table import COLUMNS, TableInfo

METRIC_COLUMNS = list(COLUMNS)
PREDICTION_COLUMNS = ["split", "sample", "stage", "depth", "source", "label", "predicted"]
EMBEDDING_COLUMNS = ["stage", "depth", "split", "sample", "label", "x", "y"]


@dataclass(frozen=True)
class AnalysisKey:
    """What the features of a run were made of; analyses with the same key are parts of one.

    ``checkpoint`` the SHA-256 of the file of weights, ``data`` the fingerprint of the images, ``max_samples`` the
    largest number of samples of a split (None = all), ``pooling`` and ``precision`` as asked for.
    """

    checkpoint: str
    data: str
    max_samples: int | None
    pooling: str
    precision: str

    @classmethod
    def of(cls, run: Run, *, max_samples: int | None, pooling: str, precision: str) -> "AnalysisKey":
        """The key of a trained run; raises RunError where it is not trained or its weights are missing."""
        run.require_trained()
        digest = run.files.sha256("checkpoints/last.safetensors")
        return cls(digest, run.fingerprint, max_samples, pooling, precision)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class AttributionSet:
    """Heat maps of one method: ``maps`` (S, M, H, W), ``targets`` (S, M); S stages, M sample images.

    ``notes`` say why a stage's maps may not be read where it is not ``valid``, ``image_notes`` (S lists of M) why a
    single map may not; empty where it may.
    """

    method: str
    stages: list[str]
    maps: np.ndarray
    targets: np.ndarray
    valid: list[bool]
    notes: list[str]
    image_notes: list[list[str]]


@dataclass
class Analysis:
    """All results of one analysis, as written to a run directory or held in memory."""

    metrics: pd.DataFrame
    predictions: pd.DataFrame
    embeddings: dict[str, pd.DataFrame] = field(default_factory=dict)
    attributions: dict[str, AttributionSet] = field(default_factory=dict)
    thumbnails: np.ndarray | None = None
    attribution_images: np.ndarray | None = None
    attribution_labels: np.ndarray | None = None
    summary: dict[str, Any] = field(default_factory=dict)


def metrics_frame(rows: list[dict[str, Any]], info: TableInfo) -> pd.DataFrame:
    """Rows of measurements as a frame with the fixed columns and types, and what is known of it as a whole."""
    frame = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    frame = frame.astype({"depth": "int64", "value": "float64", "low": "float64", "high": "float64", "seed": "int64"})
    frame["n"] = frame["n"].astype("Int64")
    for column in ("stage", "split", "metric", "class", "probe", "note"):
        frame[column] = frame[column].astype("object")
    return info.put_on(frame)


def correctness_patterns(predictions: pd.DataFrame, stages: list[str]) -> dict[str, Any]:
    """Count, per source, on how many val samples which stages were right.

    ``{"head": {"stages": [...], "n": 6000, "counts": {"0111": 512, ...}, "frequent": {"0111": 55, ...}}}``: character k
    of a key is 1 where the k-th listed stage classified the sample correctly, and ``frequent`` counts the samples among
    them that are of the most frequent class, which is what a constant guess gets right. These counts are all that
    a paired bootstrap over samples and a paired test against that guess need, and they do not depend on the order of
    the samples.
    """
    patterns: dict[str, Any] = {}
    val = predictions[predictions["split"] == "val"]
    for source, part in val.groupby("source", observed=True):
        present = [name for name in stages if (part["stage"] == name).any()]
        right = part.assign(right=(part["label"] == part["predicted"]).astype(int))
        table = right.pivot(index="sample", columns="stage", values="right")[present]
        keys = ["".join(map(str, row)) for row in table.to_numpy()]
        labels = part.drop_duplicates("sample").set_index("sample")["label"].reindex(table.index).to_numpy()
        of_frequent = labels == np.bincount(labels).argmax()
        patterns[str(source)] = {
            "stages": present,
            "n": len(keys),
            "counts": dict(sorted(Counter(keys).items())),
            "frequent": dict(sorted(Counter(compress(keys, of_frequent)).items())),
        }
    return patterns
