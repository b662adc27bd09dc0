"""Which run the pages show: the sidebar, its memory in session and address, and the folders it may look into."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from lwexplain.errors import LwexplainError
from lwexplain.run import Run
from lwexplain.text import escape_markdown, plain

FOLDER_VARIABLE = "LWEXPLAIN_RUNS"


def started_with(script: Path) -> list[str]:
    """The folders of runs: arguments of ``script`` after ``--``, else those of LWEXPLAIN_RUNS, else ``runs``."""
    started, *folders = sys.argv
    if Path(started).resolve() == script.resolve() and folders:
        return folders
    return [os.environ.get(FOLDER_VARIABLE) or "runs"]


def choose_run(folders: Sequence[str]) -> None:
    """Draw the sidebar and keep the choice for the pages: ``runs`` (name to path) and ``run_name``.

    The address of the page carries the run (and the folder, where it is not the first one), so that it can be passed
    on and survives a reload. Whoever opens that address sees what lies below ``folders`` and nothing else.
    """
    asked = st.query_params
    restore("folder", asked.get("folder", folders[0]))
    with st.sidebar:
        text = st.text_input(
            "Runs folder", key="folder", help="A run directory or a folder of run directories, below " + _list(folders)
        )
        folder = folder_below(text, folders)
        runs = {_name(path, folder): str(path) for path in runs_below(folder)} if folder else {}
        if runs:
            restore("run_name", asked.get("run"), allowed=list(runs))
            st.selectbox("Run", list(runs), key="run_name", format_func=plain)
            st.caption(f"{len(runs)} run{'s' if len(runs) != 1 else ''} in this folder")
    keep("folder")
    st.session_state.update({"runs": runs, "folders": list(folders), "folder_found": folder is not None})
    if runs:
        keep("run_name")
        asked["run"] = st.session_state["run_name"]
    if text != folders[0]:
        asked["folder"] = text


def folder_below(text: str, folders: Sequence[str]) -> Path | None:
    """The folder that was asked for, links followed; None where it is absent or not below one of ``folders``, of
    which nobody is told more.

    Nothing outside of ``folders`` is looked at before that is clear. What is not absolute is meant from the working
    directory or from one of ``folders``.
    """
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # a null byte, a name too long, links in a circle
        for top in (Path(folder).expanduser() for folder in folders):
            for path in (Path(text.strip() or ".").expanduser(), top / text.strip()):
                named = Path(os.path.abspath(path))
                if not any(named.is_relative_to(root) for root in (Path(os.path.abspath(top)), top.resolve())):
                    continue
                found = named.resolve(strict=True)
                if found.is_relative_to(top.resolve()) and found.is_dir():
                    return found
    return None


def runs_below(folder: Path) -> list[Path]:
    """Run directories in a folder, without those that a link brings in from elsewhere."""
    try:
        found = Run.find(folder)
        return [path for path in found if path.resolve().is_relative_to(folder)]
    except (OSError, LwexplainError):
        return []


def restore(key: str, default: Any, allowed: Sequence[Any] | None = None) -> None:
    """Give a widget back the value that a page switch dropped; a value no longer ``allowed`` becomes the default."""
    if key not in st.session_state:
        st.session_state[key] = st.session_state.get(f"kept_{key}", default)
    if allowed is not None and st.session_state[key] not in allowed:
        st.session_state[key] = default if default in allowed else allowed[0]


def keep(key: str) -> Any:
    """Remember a widget's value beyond its page; returns the value."""
    st.session_state[f"kept_{key}"] = st.session_state[key]
    return st.session_state[key]


def _list(folders: Sequence[str]) -> str:
    return ", ".join(escape_markdown(folder) for folder in folders)


def _name(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    return path.resolve().name if relative == "." else relative
