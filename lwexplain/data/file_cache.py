"""Facts of image files kept between calls, so that the bytes of a large data set are read once.

In ``$XDG_CACHE_HOME/lwexplain/files`` (``~/.cache`` without it), one SQLite file a folder of images; never inside the
data. A file counts as unchanged while its size, inode and both times of change (of its contents, and of anything about
it) are the same. What cannot be kept is read anew: the cache decides about time alone.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lwexplain.data.file_facts import FileFacts
from lwexplain.data.image_file import spell
from lwexplain.errors import DataError

TABLE = "facts_1"  # another number wherever facts are found otherwise
SETTLED = 100_000_000
"""Nanoseconds since the last change after which a further one is seen by the times of the file system."""

Stamp = tuple[int, int, int, int]
"""Size in bytes, inode, and the times of change of contents and of anything in nanoseconds."""


def stamp_of(path: Path) -> Stamp:
    """What changes when a file does; raises DataError where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the image {spell(path)}: {reason}; replace or remove the file") from None
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


class FactsCache:
    """The kept facts of the files below a folder."""

    def __init__(self, root: Path) -> None:
        where = Path(os.path.abspath(root))
        folder = cache_folder() / "files"
        name = hashlib.sha256(os.fsencode(where)).hexdigest()[:32]
        inside = folder.resolve().is_relative_to(where.resolve())
        self.path = None if inside else folder / f"{name}.sqlite"

    def read(self) -> dict[str, tuple[Stamp, FileFacts]]:
        """Stamps and facts by path; empty where there are none, or where they cannot be read."""
        if self.path is None or not self.path.is_file():
            return {}
        try:
            with self._open() as base:
                rows = base.execute(f"SELECT * FROM {TABLE}").fetchall()
            return {os.fsdecode(row[0]): (row[1:5], _facts(row[5:])) for row in rows}
        except (sqlite3.Error, OSError, TypeError, ValueError):
            return {}

    def write(self, facts: Mapping[str, tuple[Stamp, FileFacts]]) -> None:
        """Keep what was found of files whose last change lies long enough back that the next one would be seen."""
        if self.path is None:
            return
        now = time.time_ns()
        rows = [
            (os.fsencode(path), *stamp, *fact)
            for path, (stamp, fact) in facts.items()
            if now - max(stamp[2:]) > SETTLED
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._open() as base:
                base.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (path BLOB PRIMARY KEY, {COLUMNS})")
                marks = ", ".join("?" * (5 + len(FileFacts._fields)))
                base.executemany(f"INSERT OR REPLACE INTO {TABLE} VALUES ({marks})", rows)
        except sqlite3.DatabaseError:  # damaged, or of another make: the next call begins a new one
            if not self._is_busy():
                self.path.unlink(missing_ok=True)
        except OSError:  # no place to keep anything
            return

    def _is_busy(self) -> bool:
        """Whether another process writes at the moment, so that nothing is wrong with the file."""
        try:
            with self._open() as base:
                base.execute("PRAGMA schema_version").fetchall()
        except sqlite3.OperationalError:
            return True
        except sqlite3.DatabaseError:
            return False
        return True

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        assert self.path is not None
        base = sqlite3.connect(self.path, timeout=5)
        try:
            with base:
                yield base
        finally:
            base.close()


COLUMNS = ", ".join(["size", "inode", "changed", "touched", *FileFacts._fields])


def cache_folder() -> Path:
    """Where this user's programs keep what can be made anew."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named if os.path.isabs(named) else os.path.expanduser("~/.cache")) / "lwexplain"


def _facts(row: tuple[object, ...]) -> FileFacts:
    if [type(value) for value in row] != [str, str, *[int] * (len(row) - 2)]:
        raise ValueError("not a row of facts")
    facts = FileFacts(*row)  # type: ignore[arg-type]
    return facts._replace(cut=bool(facts.cut), clear=bool(facts.clear))
