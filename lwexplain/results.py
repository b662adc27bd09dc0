"""What an analysis leaves under ``analysis/`` of a run directory: one writer and one reader, no torch.

==========================================  ================================================================
``analysis/analysis.json``                  when, which probes and how long each took; written last: its
                                            presence says that the analysis is whole; it also
                                            names the key, the sizes of the files and the probes
                                            whose results last
``analysis/metrics.parquet``                the long table, one row a measurement (``METRIC_COLUMNS``)
``analysis/predictions.parquet``            one row a sample, stage and source (``PREDICTION_COLUMNS``)
``analysis/embeddings/METHOD.parquet``      one row a sample and stage (``EMBEDDING_COLUMNS``)
``analysis/thumbnails.npy``                 uint8 (N, H, W, C), row i = sample i of the val split
``analysis/attributions/METHOD.npy``        float32 (S, M, H, W): stages x sample images, signed heat maps
``analysis/attributions/images.npy``        uint8 (M, H, W, C), the sample images
``analysis/attributions/index.json``        classes, labels, stages, targets, validity and notes
==========================================  ================================================================

The frame of metrics carries in ``.attrs`` (kept inside the parquet file): ``stages`` (names in order),
``classes``, ``strategy`` (None for a model that lwexplain did not train), ``input_shape`` of one input without the
batch dimension, ``patterns`` (which stages were right on how many val samples; see ``correctness_patterns``) and
``failures`` (probe, stage and error of each probe that raised). Of a model that lwexplain did not train there are
``notes`` on the whole analysis: why its own output is not measured, what is assumed of a stage.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

import lwexplain
from lwexplain.analysis_files import all_at_once, put_in_place, settle, sizes
from lwexplain.arguments import shortened, shown
from lwexplain.binary_files import map_array, read_table, write_array, write_table
from lwexplain.errors import RunError, mend
from lwexplain.probes.base import PROBES
from lwexplain.program import at_command_line
from lwexplain.run import Run
from lwexplain.run_files import MissingFileError, RunFiles, is_plain_name
from lwexplain.table_checks import SPLITS as SPLITS
from lwexplain.table_checks import check_attributions, check_metrics, check_outline
from lwexplain.text import shell_command

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
ALWAYS_MEASURED = {"cost", "receptive_field"}


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


def write_analysis(run: Run, analysis: Analysis) -> None:
    """Write all results in the place of those before: at any moment, a crash included, the one or the other are whole.

    Raises RunError where they cannot be written (a full disk); what was there before is untouched then.
    """
    put_in_place(run.files)
    with _told_as_a_whole(run), all_at_once(run.files) as files:
        write_table(files, "metrics.parquet", analysis.metrics)
        write_table(files, "predictions.parquet", analysis.predictions)
        for method, frame in analysis.embeddings.items():
            write_table(files, f"embeddings/{method}.parquet", frame)
        if analysis.thumbnails is not None:
            write_array(files, "thumbnails.npy", analysis.thumbnails)
        if analysis.attributions:
            _write_attributions(files, analysis)
        files.write_json("analysis.json", analysis.summary | {"files": sizes(files)})
    put_in_place(run.files)


@contextmanager
def _told_as_a_whole(run: Run) -> Iterator[None]:
    """An error on writing one of the new files as one of the whole analysis."""
    try:
        yield
    except RunError as error:
        cause = error.__cause__
        reason = f"{cause.strerror}; {mend(cause)}" if isinstance(cause, OSError) else str(error)
        raise RunError(
            f"the results cannot be written to {run.analysis}: {reason}. What was there before is untouched"
        ) from error


def kept_analysis(run: Run, key: AnalysisKey, probes: list[str] | None) -> pd.DataFrame | None:
    """The table of an earlier analysis that answers the same question; None where there is something to do.

    That is one of the same key and version, whole and undamaged, that holds what all ``probes`` (None: all there are)
    found, without failures.
    """
    try:
        settle(run)
        summary = run.read_json("analysis/analysis.json")
    except RunError:
        return None
    if not isinstance(summary, dict) or summary.get("key") != key.to_dict():
        return None
    if summary.get("version") != lwexplain.__version__ or summary.get("files") != sizes(run.files.within("analysis")):
        return None
    if probes is None and summary.get("installed") != PROBES.offered():
        return None
    lasting = summary.get("lasting", [])
    enough = summary.get("complete") if probes is None else set(probes) <= set(lasting)
    try:
        table = read_metrics(run) if enough else None
    except RunError:
        return None
    return table if table is not None and _says_all(table) else None


def _says_all(table: pd.DataFrame) -> bool:
    """False for a table of an earlier kind: its attributes lack what advice is given by today."""
    patterns = table.attrs.get("patterns", {})
    return "input_shape" in table.attrs and all("frequent" in pattern for pattern in patterns.values())


def require_nothing_lost(run: Run, key: AnalysisKey, probes: list[str] | None) -> None:
    """Raise RunError where an analysis with this key, by ``probes`` (None: all), would lose what others have measured.

    Results of other weights or images are no loss: they are not those of this run any more.
    """
    try:
        settle(run)
        summary = run.read_json("analysis/analysis.json")
        known = AnalysisKey(**summary["key"])
        lasting = list(map(str, summary["lasting"]))
    except (RunError, KeyError, TypeError):  # none, or one that is damaged
        return
    lost = sorted(set(lasting) - set(probes or lasting) - ALWAYS_MEASURED)
    if known == key or (known.checkpoint, known.data) != (key.checkpoint, key.data) or not lost:
        return
    names = ("max_samples", "pooling", "precision")
    before, now = known.to_dict(), key.to_dict()
    different = ", ".join(f"{name} {before[name]} (now {now[name]})" for name in names if before[name] != now[name])
    raise RunError(
        f"{run.path} holds results of {shortened(', '.join(lost), 200)}, which would be lost: they were measured with "
        f"{different}. Use the same settings, name these probes too, or add --replace (replace=True) to lose them"
    )


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


def is_analyzed(run: Run) -> bool:
    """True where a whole analysis lies in the run directory."""
    settle(run)
    return run.files.has("analysis/analysis.json")


def read_metrics(run: Run) -> pd.DataFrame:
    """The long table with its ``attrs``; raises RunError where it is missing or damaged."""
    table, odd = read_odd_metrics(run)
    if odd is not None:
        raise RunError(odd)
    return table


def read_odd_metrics(run: Run) -> tuple[pd.DataFrame, str | None]:
    """The long table for a reader who makes the best of it, and what is wrong with it (None: nothing).

    Raises RunError where it is missing, or lacks what nobody can do without: columns, rows, names and numbers.
    """
    settle(run)
    try:
        run.files.open("analysis/analysis.json").close()
    except MissingFileError:
        make = shell_command("lwexplain", "analyze", run.path)
        make += "" if at_command_line() else f", or lw.analyze({str(run.path)!r})"
        raise RunError(f"{run.path} has no analysis yet; make it with: {make}") from None
    name = "analysis/metrics.parquet"
    table = checked_table(run, name, check_outline, METRIC_COLUMNS)
    try:
        check_metrics(table)
    except ValueError as error:
        return table, f"{run.path}/{name} cannot be read: {error}; run lwexplain analyze again"
    return table, None


def read_predictions(run: Run) -> pd.DataFrame:
    """Per-sample predictions (``PREDICTION_COLUMNS``)."""
    return read_table(run.files, "analysis/predictions.parquet")


def list_embeddings(run: Run) -> list[str]:
    """Names of the embedding methods present."""
    names = run.files.file_names("analysis/embeddings", ".parquet")
    return [method for name in names if is_plain_name(method := name.removesuffix(".parquet"))]


def read_embedding(run: Run, method: str) -> pd.DataFrame:
    """One embedding table (``EMBEDDING_COLUMNS``)."""
    return read_table(run.files, embedding_file(run, method))


def embedding_file(run: Run, method: str) -> str:
    """The file of an embedding table; raises RunError for a name that cannot be one."""
    _require_method(run, method)
    return f"analysis/embeddings/{method}.parquet"


def checked_table(
    run: Run, name: str, check: Callable[[pd.DataFrame, Sequence[str]], None], columns: Sequence[str]
) -> pd.DataFrame:
    """A table of the run as ``check`` lets it pass; raises RunError where it is missing, damaged or does not."""
    frame = read_table(run.files, name)
    try:
        check(frame, columns)
    except ValueError as error:
        raise RunError(f"{run.path}/{name} cannot be read: {error}; run lwexplain analyze again") from None
    return frame


def read_thumbnails(run: Run) -> np.ndarray | None:
    """Thumbnails of the val samples, memory-mapped, or None where there are none."""
    try:
        images = map_array(run.files, "analysis/thumbnails.npy")
    except MissingFileError:
        return None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise RunError(
            f"{run.path}/analysis/thumbnails.npy holds {images.dtype} {images.shape}, expected uint8 (N, H, W, C); "
            "run lwexplain analyze again"
        )
    return images


def read_attributions(run: Run) -> Analysis | None:
    """The attribution part of an analysis (maps memory-mapped), or None where there is none."""
    index = run.read_json("analysis/attributions/index.json")
    if index is None:
        return None
    folder = "analysis/attributions"
    try:
        check_attributions(index)
        images = map_array(run.files, f"{folder}/images.npy")
        count = len(index["labels"])
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != count:
            raise ValueError(f"images.npy holds {images.dtype} {images.shape}, expected uint8 ({count}, H, W, C)")
        sets = {}
        for method, entry in index["methods"].items():
            maps = map_array(run.files, f"{folder}/{method}.npy")
            if maps.dtype != np.float32 or maps.ndim != 4:  # whether they fit the images is said where they are drawn
                raise ValueError(f"{method}.npy holds {maps.dtype} {maps.shape}, expected float32 (S, M, H, W)")
            targets = np.asarray(entry["targets"])
            notes = entry["notes"], entry["image_notes"]
            sets[method] = AttributionSet(method, entry["stages"], maps, targets, entry["valid"], *notes)
    except ValueError as error:
        raise RunError(f"{run.path}/{folder}/index.json does not fit: {error}; run lwexplain analyze again") from None
    return Analysis(
        metrics=pd.DataFrame(),
        predictions=pd.DataFrame(),
        attributions=sets,
        attribution_images=images,
        attribution_labels=np.asarray(index["labels"]),
        summary={"classes": index["classes"]},
    )


def _require_method(run: Run, method: str) -> None:
    if not is_plain_name(method):
        raise RunError(
            f"{run.path}/analysis names the method {shown(method)}, which cannot be the name of a file; "
            "run lwexplain analyze again"
        )


def _write_attributions(files: RunFiles, analysis: Analysis) -> None:
    folder = "attributions"
    assert analysis.attribution_images is not None
    assert analysis.attribution_labels is not None
    write_array(files, f"{folder}/images.npy", analysis.attribution_images)
    methods = {}
    for method, item in analysis.attributions.items():
        write_array(files, f"{folder}/{method}.npy", item.maps.astype(np.float32))
        methods[method] = {
            "stages": item.stages,
            "targets": item.targets.tolist(),
            "valid": item.valid,
            "notes": item.notes,
            "image_notes": item.image_notes,
        }
    index = {
        "classes": analysis.metrics.attrs["classes"],
        "labels": analysis.attribution_labels.tolist(),
        "methods": methods,
    }
    files.write_json(f"{folder}/index.json", index)
