"""The files of an analysis change together: at any moment, a crash included, the old ones or the new ones are whole.

New files are written into a folder beside the old ones. That folder then takes the name ``analysis/.next``, in one
step: from here on the new analysis counts. Its files are moved to their places one by one, ``analysis.json`` last, and
whatever stops that, the next one who reads or writes the analysis ends it.
"""

import contextlib
import time
from collections.abc import Iterator

from lwexplain.errors import RunError
from lwexplain.run import Run
from lwexplain.run.files import RunFiles

NEXT = "analysis/.next"
SUMMARY = "analysis.json"
FOLDERS = ("", "embeddings/", "attributions/")
NOT_RESULTS = (SUMMARY, "recommendation.json")
PATIENCE = 5.0  # seconds to wait for the process that is moving the files


@contextlib.contextmanager
def all_at_once(files: RunFiles) -> Iterator[RunFiles]:
    """Where to write the files of a new analysis; it counts when the block ends without error, and all of it."""
    with files.replacing_folder(NEXT) as folder:
        yield folder


def put_in_place(files: RunFiles) -> None:
    """Move the files of a finished new analysis to their places; nothing to do where there is none.

    Whoever calls this holds the run's lock. It may be stopped at any step and called again.
    """
    if not files.has(f"{NEXT}/{SUMMARY}"):
        files.remove(NEXT)
        return
    summary = files.read_json(f"{NEXT}/{SUMMARY}")
    listed = summary.get("files") if isinstance(summary, dict) else None
    kept = set(listed) if isinstance(listed, dict) else set()
    for name in sizes(files.within("analysis")):
        if name not in kept:
            files.remove(f"analysis/{name}")
    for name in sizes(files.within(NEXT)):
        if name in kept:
            files.move(f"{NEXT}/{name}", f"analysis/{name}")
    files.move(f"{NEXT}/{SUMMARY}", f"analysis/{SUMMARY}")
    with contextlib.suppress(RunError):  # an empty folder, which the next analysis removes
        files.remove(NEXT)


def settle(run: Run) -> None:
    """End what a process left that was stopped while it put a new analysis in place.

    Raises RunError where that is not possible, or where a process that is doing it does not end.
    """
    deadline = time.monotonic() + PATIENCE
    while run.files.has(f"{NEXT}/{SUMMARY}"):
        try:
            with run.lock("putting an analysis in place"):
                put_in_place(run.files)
        except RunError as error:
            if time.monotonic() > deadline:
                raise RunError(f"the new analysis of {run.path} is not in its place yet: {error}") from None
            time.sleep(0.05)


def sizes(files: RunFiles) -> dict[str, int]:
    """Bytes of every table and picture under ``files``: one cut short is noticed by its size."""
    found = {}
    for prefix in FOLDERS:
        for name in files.file_names(prefix.rstrip("/")):
            stamp = files.stamp(prefix + name)
            if stamp is not None and name not in NOT_RESULTS:
                found[prefix + name] = stamp[1]
    return found
