"""Read back what an analysis wrote, checked, whoever wrote it."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from lwexplain.arguments import shown
from lwexplain.errors import RunError
from lwexplain.program import at_command_line
from lwexplain.results.analysis import METRIC_COLUMNS, Analysis, AttributionSet
from lwexplain.results.checks import check_attributions, check_metrics, check_outline
from lwexplain.results.replacing import settle
from lwexplain.run import Run
from lwexplain.run.binary_files import map_array, read_table
from lwexplain.run.files import MissingFileError, is_plain_name
from lwexplain.text import shell_command


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
    run.require_network()
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
