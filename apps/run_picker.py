"""Which run the pages show: the sidebar, its memory in session and address, and what is said where there is none."""

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from lwexplain.run import Run
from lwexplain.text import plain

FOLDER_VARIABLE = "LWEXPLAIN_RUNS"
EXPLORER = Path(__file__).resolve().with_name("explorer.py")
OPENED = "opened_by_explorer"


def open_by_explorer() -> None:
    """Every page begins with this, for Streamlit starts a file of ``pages/`` without the explorer around it.

    It does so on the first request after a start, where that asks for a page by its address. The explorer then
    runs after all and opens the page again, with sidebar and navigation.
    """
    if not st.session_state.pop(OPENED, False):
        runpy.run_path(str(EXPLORER))
        st.stop()


def default_folder(script: Path) -> str:
    """The runs folder: first argument after ``--``, else the environment's LWEXPLAIN_RUNS, else ``runs``."""
    started_as_script = Path(sys.argv[0]).resolve() == script.resolve()
    if started_as_script and len(sys.argv) > 1:
        return sys.argv[1]
    return os.environ.get(FOLDER_VARIABLE, "runs")


def choose_run(default: str) -> None:
    """Draw the sidebar and keep the choice for the pages: ``runs`` (name to path) and ``run_name``.

    The address of the page carries the run (and the folder, where it is not the default), so that it can be
    passed on and survives a reload.
    """
    asked = st.query_params
    restore("folder", asked.get("folder", default))
    with st.sidebar:
        folder_text = st.text_input("Runs folder", key="folder", help="A run directory or a folder of run directories")
        folder = Path(folder_text.strip() or ".").expanduser()
        runs = {_name(path, folder): str(path) for path in _find(folder)}
        if runs:
            restore("run_name", asked.get("run"), allowed=list(runs))
            st.selectbox("Run", list(runs), key="run_name", format_func=plain)
            st.caption(f"{len(runs)} run{'s' if len(runs) != 1 else ''} in this folder")
    keep("folder")
    st.session_state["runs"] = runs
    if runs:
        keep("run_name")
        asked["run"] = st.session_state["run_name"]
    if folder_text != default:
        asked["folder"] = folder_text


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


def _find(folder: Path) -> list[Path]:
    try:
        return Run.find(folder)
    except OSError:
        return []


def _name(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).as_posix()
    return path.resolve().name if relative == "." else relative
