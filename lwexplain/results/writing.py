"""Write an analysis into its run: at any moment the one before or the new one is whole."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from lwexplain.errors import RunError, mend
from lwexplain.results.analysis import Analysis
from lwexplain.results.replacing import all_at_once, put_in_place, sizes
from lwexplain.run import Run
from lwexplain.run.binary_files import write_array, write_table
from lwexplain.run.files import RunFiles
from lwexplain.table import TableInfo


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
        "classes": TableInfo.of(analysis.metrics).classes,
        "labels": analysis.attribution_labels.tolist(),
        "methods": methods,
    }
    files.write_json(f"{folder}/index.json", index)
