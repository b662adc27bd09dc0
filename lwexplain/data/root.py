"""The folder that ``data.root`` names."""

import os
from contextlib import suppress
from pathlib import Path

from lwexplain.data.image_file import spell
from lwexplain.errors import DataError


def expanded_root(root: Path) -> Path:
    """``root`` with ``~`` resolved; raises DataError where it cannot be the path of a folder at all."""
    try:
        found = root.expanduser()
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(found)
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, an unknown user, no access
        reason = getattr(error, "strerror", None) or error
        text = spell(root)
        text = text if len(text) <= 80 else f"{text[:80]}..."
        raise DataError(f"data.root={text!r} cannot be looked into: {reason}; name another folder") from None
    if not spell(found.absolute()).isprintable() or spell(found.absolute()) != str(found.absolute()):
        raise DataError(
            f"data.root={spell(found)} has a name that is no printable UTF-8, which the files of a run cannot hold; "
            "rename the folder, or name a link to it"
        )
    return found


def existing_folder(root: Path) -> Path:
    """``root`` with ``~`` resolved; raises DataError unless it is a folder."""
    found = expanded_root(root)
    if found.is_dir():
        return found
    if found.exists():
        raise DataError(f"data.root={spell(found)} is no folder; set it to the folder that holds the class folders")
    where = "" if found.is_absolute() else f" in {spell(Path.cwd())}, where you are"
    raise DataError(
        f"no folder {spell(found)}{where}; set data.root to the folder that holds the class folders "
        "(of a run that is there already, in its config.yaml)"
    )
