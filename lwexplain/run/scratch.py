"""Folders for what is needed for a while, in the system's temporary directory; those of killed processes are swept."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lwexplain.run.files import held, is_held

NAME = re.compile(r"lwexplain-[a-z]+-\w+")


class ScratchFolder:
    """A new folder ``lwexplain-PURPOSE-...``; ``remove`` deletes it. It is held by a lock as long as this lives."""

    def __init__(self, purpose: str) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"lwexplain-{purpose}-"))
        self._hold = ExitStack()
        self._hold.enter_context(held(str(self.path)))

    def remove(self) -> None:
        """Delete the folder with all it holds."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._hold.close()


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder for the block alone."""
    folder = ScratchFolder(purpose)
    try:
        yield folder.path
    finally:
        folder.remove()


def sweep() -> None:
    """Delete the folders of this user's processes that were killed."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if not NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_uid == os.getuid() and not is_held(entry.path):
                    shutil.rmtree(entry.path, ignore_errors=True)
