"""What an analysis leaves under ``analysis/`` of a run directory: one writer and one reader, no torch.

==========================================  ================================================================
``analysis/analysis.json``                  when, which probes and how long each took; written last: its
                                            presence says that the analysis is whole
``analysis/metrics.parquet``                the long table, one row a measurement (``METRIC_COLUMNS``)
``analysis/predictions.parquet``            one row a sample, stage and source (``PREDICTION_COLUMNS``)
``analysis/embeddings/METHOD.parquet``      one row a sample and stage (``EMBEDDING_COLUMNS``)
``analysis/thumbnails.npy``                 uint8 (N, H, W, C), row i = sample i of the val split
``analysis/attributions/METHOD.npy``        float32 (S, M, H, W): stages x sample images, signed heat maps
``analysis/attributions/images.npy``        uint8 (M, H, W, C), the sample images
``analysis/attributions/index.json``        classes, labels, stages, targets, validity and notes
==========================================  ================================================================

The frame of metrics carries in ``.attrs`` (kept inside the parquet file): ``stages`` (names in order),
``classes``, ``strategy`` (None for a model that lwexplain did not train), ``patterns`` (which stages were right
on how many val samples; see ``correctness_patterns``) and ``failures`` (probe, stage and error of each probe
that raised).
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lwexplain.errors import RunError
from lwexplain.run import Run, atomic_path

METRIC_COLUMNS = [
    "stage",
    "depth",
    "split",
    "metric",
    "class",
    "value",
    "low",
    "high",
    "n",
    "seed",
    "probe",
    "note",
]
PREDICTION_COLUMNS = ["split", "sample", "stage", "depth", "source", "label", "predicted"]
EMBEDDING_COLUMNS = ["stage", "depth", "split", "sample", "label", "x", "y"]


@dataclass
class AttributionSet:
    """Heat maps of one method: ``maps`` (S, M, H, W), ``targets`` (S, M); S stages, M sample images."""

    method: str
    stages: list[str]
    maps: np.ndarray
    targets: np.ndarray
    valid: list[bool]
    notes: list[str]


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


def metrics_frame(rows: list[dict[str, Any]], attrs: dict[str, Any]) -> pd.DataFrame:
    """Rows of measurements as a frame with the fixed columns and types."""
    frame = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    frame = frame.astype({"depth": "int64", "value": "float64", "low": "float64", "high": "float64", "seed": "int64"})
    frame["n"] = frame["n"].astype("Int64")
    for column in ("stage", "split", "metric", "class", "probe", "note"):
        frame[column] = frame[column].astype("object")
    frame.attrs.update(attrs)
    return frame


def correctness_patterns(predictions: pd.DataFrame, stages: list[str]) -> dict[str, Any]:
    """Count, per source, on how many val samples which stages were right.

    ``{"head": {"stages": [...], "n": 6000, "counts": {"0111": 512, ...}}}``: character k of a key is 1 where the
    k-th listed stage classified the sample correctly. These counts are all that a paired bootstrap over samples
    needs, and they do not depend on the order of the samples.
    """
    patterns: dict[str, Any] = {}
    val = predictions[predictions["split"] == "val"]
    for source, part in val.groupby("source"):
        present = [name for name in stages if (part["stage"] == name).any()]
        right = part.assign(right=(part["label"] == part["predicted"]).astype(int))
        table = right.pivot(index="sample", columns="stage", values="right")[present]
        keys = ["".join(map(str, row)) for row in table.to_numpy()]
        patterns[str(source)] = {
            "stages": present,
            "n": len(keys),
            "counts": dict(sorted(Counter(keys).items())),
        }
    return patterns


def write_analysis(run: Run, analysis: Analysis) -> None:
    """Write all results; ``analysis.json`` goes first away and last in, so a crash never leaves a whole-looking mix."""
    marker = run.analysis / "analysis.json"
    marker.unlink(missing_ok=True)
    _remove_others(run.analysis / "embeddings", {f"{method}.parquet" for method in analysis.embeddings})
    kept = {f"{method}.npy" for method in analysis.attributions}
    _remove_others(run.analysis / "attributions", kept | {"images.npy", "index.json"} if kept else set())
    _write_parquet(run.metrics_path, analysis.metrics)
    _write_parquet(run.analysis / "predictions.parquet", analysis.predictions)
    for method, frame in analysis.embeddings.items():
        _write_parquet(run.analysis / "embeddings" / f"{method}.parquet", frame)
    if analysis.thumbnails is not None:
        _write_array(run.analysis / "thumbnails.npy", analysis.thumbnails)
    if analysis.attributions:
        _write_attributions(run, analysis)
    run.write_json("analysis/analysis.json", analysis.summary)


def read_analysis(run: Run) -> Analysis:
    """Everything a finished analysis wrote."""
    metrics = read_metrics(run)
    pictures = read_attributions(run)
    return Analysis(
        metrics=metrics,
        predictions=read_predictions(run),
        embeddings={method: read_embedding(run, method) for method in list_embeddings(run)},
        attributions=pictures.attributions if pictures else {},
        thumbnails=read_thumbnails(run),
        attribution_images=pictures.attribution_images if pictures else None,
        attribution_labels=pictures.attribution_labels if pictures else None,
        summary=run.read_json("analysis/analysis.json"),
    )


def keep_other_probes(old: Analysis, new: Analysis) -> Analysis:
    """``new`` with what ``old``, of the same weights, data and samples, has from probes that were not run again."""
    if old.summary.get("key") != new.summary["key"] or "made_by" not in old.summary:
        return new
    failures = new.metrics.attrs["failures"]
    again = set(new.summary["probe_seconds"]) | {failure["probe"] for failure in failures}
    made_by = {
        kind: {name: probe for name, probe in by.items() if probe not in again}
        for kind, by in old.summary["made_by"].items()
    }
    predictions = old.predictions[old.predictions["source"].isin(made_by["predictions"])]
    new.predictions = pd.concat([predictions, new.predictions], ignore_index=True)
    new.embeddings = {name: old.embeddings[name] for name in made_by["embeddings"]} | new.embeddings
    new.attributions = {name: old.attributions[name] for name in made_by["attributions"]} | new.attributions
    attrs = {str(key): value for key, value in new.metrics.attrs.items()}
    attrs["patterns"] = correctness_patterns(new.predictions, attrs["stages"])
    attrs["failures"] = [*(item for item in old.metrics.attrs["failures"] if item["probe"] not in again), *failures]
    rows = {_key(row): row for row in _rows(old.metrics[~old.metrics["probe"].isin(again)])}
    for row in _rows(new.metrics):
        known = rows.setdefault(_key(row), row)
        if known is not row:
            error = (
                f"{row['metric']} on {row['split']} stays as probe {known['probe']!r} gave it in an earlier analysis"
            )
            attrs["failures"].append({"probe": row["probe"], "stage": row["stage"], "error": error})
    new.metrics = metrics_frame(list(rows.values()), attrs)
    new.summary["made_by"] = {kind: made_by[kind] | by for kind, by in new.summary["made_by"].items()}
    new.summary["probe_seconds"] = old.summary["probe_seconds"] | new.summary["probe_seconds"]
    return new


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    label = row["class"]
    return row["stage"], row["metric"], row["split"], label if isinstance(label, str) else None


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(column): value for column, value in row.items()} for row in frame.to_dict("records")]


def is_analyzed(run: Run) -> bool:
    """True where a whole analysis lies in the run directory."""
    return (run.analysis / "analysis.json").exists()


def read_metrics(run: Run) -> pd.DataFrame:
    """The long table with its ``attrs``; raises RunError where it is missing or damaged."""
    if not is_analyzed(run):
        raise RunError(f"{run.path} has no analysis yet; make it with: lwexplain analyze {run.path}")
    frame = _read_parquet(run.metrics_path)
    missing = [column for column in METRIC_COLUMNS if column not in frame.columns]
    if missing:
        raise RunError(f"{run.metrics_path} lacks the columns {missing}; run lwexplain analyze again")
    return frame


def read_predictions(run: Run) -> pd.DataFrame:
    """Per-sample predictions (``PREDICTION_COLUMNS``)."""
    return _read_parquet(run.analysis / "predictions.parquet")


def list_embeddings(run: Run) -> list[str]:
    """Names of the embedding methods present."""
    return sorted(path.stem for path in (run.analysis / "embeddings").glob("*.parquet"))


def read_embedding(run: Run, method: str) -> pd.DataFrame:
    """One embedding table (``EMBEDDING_COLUMNS``)."""
    return _read_parquet(run.analysis / "embeddings" / f"{method}.parquet")


def read_thumbnails(run: Run) -> np.ndarray | None:
    """Thumbnails of the val samples, memory-mapped, or None where there are none."""
    path = run.analysis / "thumbnails.npy"
    return _read_array(path) if path.exists() else None


def read_attributions(run: Run) -> Analysis | None:
    """The attribution part of an analysis (maps memory-mapped), or None where there is none."""
    index = run.read_json("analysis/attributions/index.json")
    if index is None:
        return None
    folder = run.analysis / "attributions"
    try:
        sets = {
            method: AttributionSet(
                method,
                entry["stages"],
                _read_array(folder / f"{method}.npy"),
                np.asarray(entry["targets"]),
                entry["valid"],
                entry["notes"],
            )
            for method, entry in index["methods"].items()
        }
        return Analysis(
            metrics=pd.DataFrame(),
            predictions=pd.DataFrame(),
            attributions=sets,
            attribution_images=_read_array(folder / "images.npy"),
            attribution_labels=np.asarray(index["labels"]),
            summary={"classes": index["classes"]},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder}/index.json is damaged ({error!r}); run lwexplain analyze again") from None


def _write_attributions(run: Run, analysis: Analysis) -> None:
    folder = run.analysis / "attributions"
    assert analysis.attribution_images is not None
    assert analysis.attribution_labels is not None
    _write_array(folder / "images.npy", analysis.attribution_images)
    methods = {}
    for method, item in analysis.attributions.items():
        _write_array(folder / f"{method}.npy", item.maps.astype(np.float32))
        methods[method] = {
            "stages": item.stages,
            "targets": item.targets.tolist(),
            "valid": item.valid,
            "notes": item.notes,
        }
    index = {
        "classes": analysis.metrics.attrs["classes"],
        "labels": analysis.attribution_labels.tolist(),
        "methods": methods,
    }
    run.write_json("analysis/attributions/index.json", index)


def _remove_others(folder: Path, names: set[str]) -> None:
    """Delete what an earlier analysis left and this one does not have: its samples may be others."""
    for path in folder.glob("*"):
        if path.name not in names:
            path.unlink()


def _write_parquet(path: Path, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these two
        raise RunError(f"{path} cannot be read ({_first_line(error)}); run lwexplain analyze again") from None


def _write_array(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{path} cannot be read ({_first_line(error)}); run lwexplain analyze again") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
