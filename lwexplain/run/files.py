"""The one gate to the files of a run directory: it opens, lists, writes and deletes them and follows no link.

A run directory may come from a stranger. So names are checked before they become paths, every folder on the way is
entered by itself, and only plain files are opened: no links, pipes or devices. The run directory itself may be a link,
because the person named it. Files are written under a name that nobody can guess and renamed.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from lwexplain.errors import LwexplainError, RunError
from lwexplain.run.parsing import MOST_JSON, json_bytes, parse_json

MOST_ENTRIES = 100_000
"""Entries of a folder of a run; one with more is refused."""

PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}(\.[a-z]{1,16})?")
"""What a name that stands inside a file must look like before it becomes part of a file name."""

LEFTOVER = re.compile(r"\..+\.[0-9a-f]+\.(tmp|new)|\.prefix-\w+")
"""Names under which files and folders are written until they are whole. Whoever writes one holds a lock on it."""

TEMPORARY = re.compile(r"[0-9a-f]{16}\.tmp")

WRITTEN_FOLDERS = ("", "checkpoints", "analysis", "analysis/parts", "analysis/features")
"""Folders of a run in which a process may leave something that is not whole."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INNER_FOLDER = _FOLDER | os.O_NOFOLLOW
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class MissingFileError(RunError):
    """A file of a run is not there."""


class RunFiles:
    """The files below ``root``, named relative to it (``analysis/metrics.parquet``); ``inside`` narrows to a folder.

    Every method raises RunError where a name leads out of the run, a link lies on the way, or the system refuses.
    """

    def __init__(self, root: str | Path, inside: tuple[str, ...] = ()) -> None:
        self.root, self.inside = Path(root), inside

    def within(self, folder: str) -> "RunFiles":
        """The files of a folder of these."""
        return RunFiles(self.root, self._parts(folder))

    def path(self, name: str = "") -> Path:
        """Where a file lies, for messages and for a file that has just been made here."""
        return self.root.joinpath(*(self._parts(name) if name else self.inside))

    # ------------------------------------------------------------------ reading

    def open(self, name: str, most: int | None = None) -> BinaryIO:
        """A plain file for reading, of ``most`` bytes or fewer; raises MissingFileError where it is not there."""
        *folders, last = self._parts(name)
        with _explained(self.path(name), name), self._folder(folders) as folder:
            _require_plain(os.stat(last, dir_fd=folder, follow_symlinks=False), self.path(name))
            descriptor = os.open(last, os.O_RDONLY | _PLAIN, dir_fd=folder)
        file = os.fdopen(descriptor, "rb")
        try:
            state = os.fstat(descriptor)
            _require_plain(state, self.path(name))
            if most is not None and state.st_size > most:
                raise RunError(
                    f"{self.path(name)} has {state.st_size:,} bytes, expected at most {most:,}; {remedy(name)}"
                )
        except BaseException:
            file.close()
            raise
        return file

    def read_bytes(self, name: str, most: int) -> bytes:
        """The content of a plain file of ``most`` bytes or fewer."""
        with _explained(self.path(name), name), self.open(name, most) as file:
            return file.read(min(most, os.fstat(file.fileno()).st_size))

    def read_json(self, name: str, most: int = MOST_JSON) -> Any:
        """A JSON file, parsed with bounds; raises RunError where it is damaged."""
        try:
            return parse_json(self.read_bytes(name, most))
        except ValueError as error:
            raise RunError(f"{self.path(name)} cannot be read ({error}); {remedy(name)}") from None

    def has(self, name: str) -> bool:
        """Whether a plain file of this name is there; a link is none."""
        return self.stamp(name) is not None

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Time of change (ns) and size (bytes) of a plain file; None where there is none."""
        try:
            *folders, last = self._parts(name)
            with self._folder(folders) as folder:
                state = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except (OSError, RunError):
            return None
        return (state.st_mtime_ns, state.st_size) if stat.S_ISREG(state.st_mode) else None

    def file_names(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names of the plain files of a folder in order, hidden ones left out; none where there is no folder."""
        return self._entries(folder, suffix, folders=False)

    def folder_names(self, folder: str = "") -> list[str]:
        """Names of the folders of a folder in order, hidden ones and links left out."""
        return self._entries(folder, "", folders=True)

    def sha256(self, name: str) -> str:
        """SHA-256 of a file's bytes as hexadecimal digits."""
        with _explained(self.path(name), name), self.open(name) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    # ------------------------------------------------------------------ writing

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary path that takes the name, synced to disk, when the block ends without error.

        On any error (a full disk, an interrupt) the temporary file is removed and what was there stays as it was.
        """
        *folders, _ = self._parts(name)
        way = _entered(self._folder(folders, make=True), self.path(name), name)
        with way as folder, _replacing(folder, self.path(name)) as temporary:
            yield temporary

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, whole or not at all."""
        with self.replacing(name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return self.path(name)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file, whole or not at all."""
        with self.replacing(name) as temporary:
            temporary.write_bytes(json_bytes(value))
        return self.path(name)

    def open_in_place(self, name: str) -> int:
        """Descriptor for reading and writing a file where it lies, made where it is not there; nothing is cut off."""
        *folders, last = self._parts(name)
        with _explained(self.path(name), name), self._folder(folders, make=True) as folder:
            with contextlib.suppress(FileNotFoundError):
                _require_plain(os.stat(last, dir_fd=folder, follow_symlinks=False), self.path(name))
            descriptor = os.open(last, os.O_RDWR | os.O_CREAT | _PLAIN, 0o666, dir_fd=folder)
            try:
                state = os.fstat(descriptor)
                _require_plain(state, self.path(name))
                if state.st_nlink > 1:
                    raise RunError(
                        f"{self.path(name)} is the same file as another one (a hard link) and will not be changed; "
                        "replace it by a copy of itself"
                    )
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def append(self, name: str, data: bytes) -> None:
        """Add bytes to the end of a file."""
        descriptor = self.open_in_place(name)
        with _explained(self.path(name), name), os.fdopen(descriptor, "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(data)

    def synced_size(self, name: str) -> int:
        """Bytes of a file, all of them on the disk when this returns; an empty one is made where there is none."""
        descriptor = self.open_in_place(name)
        with _explained(self.path(name), name), os.fdopen(descriptor, "r+b") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def cut(self, name: str, size: int) -> None:
        """Keep the first ``size`` bytes of a file; raises RunError where it has fewer."""
        descriptor = self.open_in_place(name)
        with _explained(self.path(name), name), os.fdopen(descriptor, "r+b") as file:
            found = os.fstat(descriptor).st_size
            if not 0 <= size <= found:
                raise RunError(f"{self.path(name)} has {found:,} bytes, expected at least {size:,}; {remedy(name)}")
            file.truncate(size)

    def make_folder(self, name: str = "") -> None:
        """Make a folder, and those above it, where it is not there."""
        with _explained(self.path(name), name), self._folder(self._parts(name) if name else self.inside, make=True):
            pass

    @contextlib.contextmanager
    def replacing_folder(self, name: str) -> Iterator["RunFiles"]:
        """A new empty folder that takes the place of ``name`` when the block ends without error."""
        *folders, last = self._parts(name)
        with _entered(self._folder(folders, make=True), self.path(name), name) as folder:
            temporary = f".{last[:200]}.{secrets.token_hex(8)}.new"
            try:
                with _explained(self.path(name), name):
                    os.mkdir(temporary, dir_fd=folder)
                with held(temporary, folder):
                    yield RunFiles(self.root, (*folders, temporary))
                with _explained(self.path(name), name):
                    _remove(folder, last)
                    os.rename(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
                    os.fsync(folder)
            finally:
                with contextlib.suppress(OSError, RecursionError):
                    _remove(folder, temporary)

    def move(self, name: str, goal: str) -> None:
        """Give a plain file another name; a plain file or a link of that name is replaced."""
        *folders, last = self._parts(name)
        *others, new = self._parts(goal)
        with _explained(self.path(name), name), self._folder(folders) as source:
            _require_plain(os.stat(last, dir_fd=source, follow_symlinks=False), self.path(name))
            with _explained(self.path(goal), goal), self._folder(others, make=True) as folder:
                os.replace(last, new, src_dir_fd=source, dst_dir_fd=folder)
                os.fsync(folder)

    # ------------------------------------------------------------------ deleting

    def remove(self, name: str = "") -> None:
        """Delete a file or a folder with all it holds, where it is there; of a link the link, never what it names."""
        *folders, last = self._parts(name) if name else self.inside
        try:
            with _explained(self.path(name), name), self._folder(folders) as folder:
                _remove(folder, last)
        except MissingFileError:
            return

    def remove_leftovers(self, folder: str = "") -> None:
        """Delete what a process left that was killed while it wrote into ``folder``."""
        for name in self._entries(folder, "", folders=None, hidden=True):
            if LEFTOVER.fullmatch(name):
                parts = self._parts(folder) if folder else self.inside
                with contextlib.suppress(OSError, RunError), self._folder(parts) as here:
                    _remove_dead(here, name)

    def remove_all_leftovers(self) -> None:
        """Delete what killed processes left anywhere in the run."""
        for folder in WRITTEN_FOLDERS:
            with contextlib.suppress(RunError):  # a link in the place of a folder: who needs it will say so
                self.remove_leftovers(folder)

    # ------------------------------------------------------------------ the way to a file

    def _parts(self, name: str) -> tuple[str, ...]:
        return (*self.inside, *checked_parts(name))

    @contextlib.contextmanager
    def _folder(self, parts: "list[str] | tuple[str, ...]", make: bool = False) -> Iterator[int]:
        """Descriptor of a folder, entered part by part; a link on the way is refused."""
        current = os.open(self.root, _FOLDER)
        try:
            for place, part in enumerate(parts, start=1):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=current)
                try:
                    inner = os.open(part, _INNER_FOLDER, dir_fd=current)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        state = os.stat(part, dir_fd=current, follow_symlinks=False)
                        raise RunError(
                            f"{self.root.joinpath(*parts[:place])} is {_kind(state)}, expected a folder of the run; "
                            "put the folder itself in its place, or remove it"
                        ) from None
                    raise
                os.close(current)
                current = inner
            yield current
        finally:
            os.close(current)

    def _entries(self, folder: str, suffix: str, *, folders: bool | None, hidden: bool = False) -> list[str]:
        parts = self._parts(folder) if folder else self.inside
        place = self.path(folder)
        try:
            with _explained(place, folder), self._folder(parts) as descriptor, os.scandir(descriptor) as entries:
                seen = list(islice(entries, MOST_ENTRIES + 1))
                if len(seen) > MOST_ENTRIES:
                    raise RunError(
                        f"{place} holds more than {MOST_ENTRIES:,} entries; remove what does not belong there"
                    )
                return sorted(
                    entry.name
                    for entry in seen
                    if entry.name.endswith(suffix)
                    and entry.name.startswith(".") == hidden
                    and (folders is None or _is(entry, folders))
                )
        except MissingFileError:
            return []


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which a person named, that replaces it when the block ends without error.

    On any error (a full disk, an interrupt) the temporary file is removed and ``path`` stays as it was. Where it is a
    link, the file that it names is replaced; a device, a pipe or a folder never is.
    """
    path = Path(path)
    with _explained(path, path.name):
        if path.is_symlink():
            path = path.resolve()
    with _explained(path, path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(path.parent, _FOLDER)
    try:
        with _replacing(folder, path) as temporary:
            yield temporary
    finally:
        os.close(folder)


def read_named_file(path: Path, most: int) -> bytes:
    """The content of a file that a person named (a link is their choice), of ``most`` bytes or fewer.

    Raises OSError where the system refuses, ValueError where it is no plain file, too large, or no path at all.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is not a plain file")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is not a plain file")
        if state.st_size > most:
            raise ValueError(f"it has {state.st_size:,} bytes, expected at most {most:,}")
        return file.read(state.st_size)


def checked_parts(name: str) -> tuple[str, ...]:
    """The parts of a relative name; raises RunError where it is absolute, goes up, or is no name."""
    parts = tuple(name.split("/")) if isinstance(name, str) else ()
    if not parts or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise RunError(f"{str(name)[:80]!r} is no name of a file of a run; expected a relative one such as run.json")
    return parts


def is_plain_name(name: Any) -> bool:
    """Whether a name found inside a file may become part of a file name."""
    return isinstance(name, str) and PLAIN_NAME.fullmatch(name) is not None


def remedy(name: str) -> str:
    """What to do about a file of a run that cannot be used."""
    if name.startswith("analysis") or name.endswith((".parquet", ".npy")):
        return "run lwexplain analyze again"
    if name.startswith("checkpoints"):
        return "restore it from a copy, or train the run anew"
    return "restore it from a copy of the run"


@contextlib.contextmanager
def _replacing(folder: int, place: Path) -> Iterator[Path]:
    temporary = f".{place.name[:200]}.{secrets.token_hex(8)}.tmp"
    try:
        with contextlib.suppress(FileNotFoundError):
            state = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
            if not (stat.S_ISREG(state.st_mode) or stat.S_ISLNK(state.st_mode)):
                raise RunError(f"{place} is {_kind(state)} and will not be replaced by a file; name another place")
        _remove_leftovers_of(folder, place.name)
        held_file = _new_held_file(folder, temporary)
        try:
            yield place.with_name(temporary)
            descriptor = os.open(temporary, os.O_RDWR | _PLAIN, dir_fd=folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, place.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(held_file)
        os.fsync(folder)
    except OSError as error:
        raise RunError(
            f"cannot write {place}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)


def _new_held_file(folder: int, name: str) -> int:
    """A new empty file, locked until the descriptor is closed.

    Where the system can, it gets its name only after its lock, so that no other process takes it for one that a dead
    process left.
    """
    with contextlib.suppress(OSError, AttributeError):  # O_TMPFILE is Linux, and not of every file system
        descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=folder)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o666, dir_fd=folder)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


@contextlib.contextmanager
def held(name: str, folder: int | None = None) -> Iterator[None]:
    """Hold a lock on a file or folder that is being written: the process that left one without a lock is dead."""
    descriptor = os.open(name, os.O_RDONLY | _PLAIN, dir_fd=folder)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_held(name: str, folder: int | None = None) -> bool:
    """Whether a process that lives is writing this file or folder, or nobody can tell."""
    try:
        descriptor = os.open(name, os.O_RDONLY | _PLAIN, dir_fd=folder)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove_leftovers_of(folder: int, name: str) -> None:
    """Delete what killed processes left where they wrote the file ``name``."""
    beginning = f".{name[:200]}."
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in islice(entries, MOST_ENTRIES):
            if entry.name.startswith(beginning) and TEMPORARY.fullmatch(entry.name[len(beginning) :]):
                _remove_dead(folder, entry.name)


def _remove_dead(folder: int, name: str) -> None:
    """Delete an unfinished file or folder that no living process holds."""
    if not is_held(name, folder):
        with contextlib.suppress(OSError, RecursionError):
            _remove(folder, name)


def _remove(folder: int, name: str) -> None:
    """Delete an entry of a folder with all it holds; links are deleted, not followed."""
    try:
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(state.st_mode):
        shutil.rmtree(name, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def _entered(folder: "contextlib.AbstractContextManager[int]", place: Path, name: str) -> Iterator[int]:
    """``folder`` as it is; only what goes wrong on entering it is put into words here."""
    with contextlib.ExitStack() as stack:
        with _explained(place, name):
            descriptor = stack.enter_context(folder)
        yield descriptor


@contextlib.contextmanager
def _explained(place: Path, name: str) -> Iterator[None]:
    """Turn what the system says into a RunError that names the file and the mend."""
    try:
        yield
    except LwexplainError:
        raise
    except FileNotFoundError:
        raise MissingFileError(f"{place} is missing; {remedy(name)}") from None
    except PermissionError:
        raise RunError(f"{place} cannot be opened: permission denied; ask for the right, or work on a copy") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:80] or type(error).__name__
        raise RunError(f"{place} cannot be used: {reason}; {remedy(name)}") from None


def _require_plain(state: os.stat_result, place: Path) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise RunError(
            f"{place} is {_kind(state)}, expected a plain file; put the file itself in its place, or remove it"
        )


def _kind(state: os.stat_result) -> str:
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for test, name in kinds if test(state.st_mode)), "a device")


def _is(entry: "os.DirEntry[str]", folder: bool) -> bool:
    return entry.is_dir(follow_symlinks=False) if folder else entry.is_file(follow_symlinks=False)
