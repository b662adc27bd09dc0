"""What the pages read of a run: cached by path and time of change, and friendly where something is amiss."""

import contextlib
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from lwexplain.advice.question import Question
from lwexplain.advice.recommend import Recommendation, recommend
from lwexplain.advice.simple_rules import RuleStop, rules_beside
from lwexplain.errors import AdviceError, LwexplainError
from lwexplain.results import Analysis, is_analyzed, list_embeddings, read_attributions, read_metrics, read_thumbnails
from lwexplain.run import Run
from lwexplain.run.directory import MONITORED
from lwexplain.text import escape_markdown, plain, shell_command
from lwexplain.views import contents
from lwexplain.views.training_curves import training_figure

log = logging.getLogger("lwexplain.explorer")

Stamp = tuple[tuple[int, int] | None, ...]


# ---------------------------------------------------------------------- the run of the page


@contextlib.contextmanager
def friendly(what: str = "This page") -> Iterator[None]:
    """Turn any error of the block into a message that names the mend; the traceback goes to the server's log."""
    try:
        yield
    except LwexplainError as error:
        st.error(f"{escape_markdown(what)} cannot be shown: {escape_markdown(error, 1000)}", icon=":material/error:")
    except Exception as error:  # the files of a run are a stranger's data: any shape of damage may lie in them
        trace = "\n".join(plain(line) for line in traceback.format_exc().splitlines())
        log.error("%s cannot be shown\n%s", plain(what), trace)
        st.error(
            f"{escape_markdown(what)} cannot be shown: the files of this run do not have the expected form "
            f"({escape_markdown(type(error).__name__)}: {escape_markdown(error, 1000)}).",
            icon=":material/error:",
        )
        st.markdown("Analyze the run again; if that does not help, the log of the explorer holds the details.")


def current_run() -> Run:
    """The run picked in the sidebar; stops the page with an explanation where there is none."""
    runs = st.session_state.get("runs") or {}
    name = st.session_state.get("run_name")
    if name not in runs:
        _explain_no_runs()
        st.stop()
    try:
        return Run.open(runs[name])
    except LwexplainError as error:
        st.title(escape_markdown(name))
        st.error(f"This run cannot be opened: {escape_markdown(error, 1000)}", icon=":material/error:")
        st.markdown("The other runs in the sidebar are not affected. To train it anew, move this directory away first.")
        st.stop()


def analyzed_table(run: Run) -> pd.DataFrame:
    """The measurements of the run; stops the page with its state and the next command where there are none."""
    if not is_analyzed(run):
        st.title(escape_markdown(st.session_state["run_name"]))
        if run.status == MONITORED:
            st.info("This run holds what lw.Monitor saw of a training; Overview shows it.", icon=":material/timeline:")
        elif run.status == "trained" or run.is_adopted:
            st.info(f"This run is {run.status}, but not analyzed yet. Analyze it with:", icon=":material/science:")
            st.code(shell_command("lwexplain", "analyze", run.path), language="bash", wrap_lines=True)
            if not run.is_adopted:
                show_training(run)
        else:
            show_unfinished(run)
        st.stop()
    try:
        return metrics(run)
    except LwexplainError as error:
        st.title(escape_markdown(st.session_state["run_name"]))
        st.error(
            f"The measurements of this run cannot be read: {escape_markdown(error, 1000)}", icon=":material/error:"
        )
        st.code(shell_command("lwexplain", "analyze", run.path), language="bash", wrap_lines=True)
        st.stop()


def show_unfinished(run: Run) -> None:
    """Status, progress and curve so far of a run whose training has not ended; follows it while it trains."""

    def state() -> None:
        now = Run.open(run.path)
        progress = f" ({escape_markdown(now.manifest['progress'])})" if now.manifest.get("progress") else ""
        text = f"Training has not finished: status **{escape_markdown(now.status)}**{progress}."
        (st.error if now.status == "failed" else st.info)(text, icon=":material/hourglass_top:")
        show_training(now)

    with friendly("The training so far"):
        if run.status == "training":
            st.fragment(state, run_every="10s")()
        else:
            state()
    st.markdown("If no process is training it any more, go on with:")
    st.code(run.resume_command, language="bash", wrap_lines=True)


def show_training(run: Run) -> None:
    """The training curve, from the events logged so far."""
    figure = training_figure(events(run), sequential=contents.is_sequential(run))
    st.plotly_chart(figure, theme=None, key="training_curve", config=CHART)
    costs = contents.training_costs(run)
    if costs:
        st.caption(escape_markdown(costs))


def show_table(frame: pd.DataFrame, **options: Any) -> None:
    """A table whose text is shown in visible characters."""
    shown = frame.map(lambda value: plain(value, 1000) if isinstance(value, str) else value)
    st.dataframe(shown.rename(columns=plain), hide_index=True, **options)


def _explain_no_runs() -> None:
    asked = str(st.session_state.get("folder") or ".")
    below = ", ".join(escape_markdown(folder) for folder in st.session_state.get("folders") or ["runs"])
    st.title("No run to show")
    if not st.session_state.get("folder_found"):
        st.warning(
            f"There is no folder {escape_markdown(asked)} below {below}, where this explorer looks. "
            "For another one, start the explorer with it:",
            icon=":material/folder_off:",
        )
        st.code("lwexplain explore FOLDER", language="bash")
    else:
        st.info(f"The folder {escape_markdown(asked)} holds no run directory.", icon=":material/folder_open:")
    st.markdown("To make runs: the demo trains and analyzes two small networks on embedded digits in a few minutes.")
    st.code("lwexplain demo --out runs/demo\nlwexplain explore runs/demo", language="bash")
    st.markdown("Or train and analyze one of your own:")
    st.code("lwexplain train CONFIG.yaml --run-dir runs/mine\nlwexplain analyze runs/mine", language="bash")


# ---------------------------------------------------------------------- cached readers

CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def metrics(run: Run) -> pd.DataFrame:
    """The long table of measurements."""
    return _metrics(str(run.path), _stamp(run, "analysis/metrics.parquet", "analysis/analysis.json"))


def predictions(run: Run) -> pd.DataFrame:
    """Predicted class per sample, stage and source."""
    return _predictions(str(run.path), _stamp(run, "analysis/predictions.parquet"))


def embedding_methods(run: Run) -> list[str]:
    return list_embeddings(run)


def embedding(run: Run, method: str) -> pd.DataFrame:
    """One embedding table."""
    return _embedding(str(run.path), method, _stamp(run, f"analysis/embeddings/{method}.parquet"))


def thumbnails(run: Run) -> np.ndarray | None:
    """Thumbnails of the val samples, memory-mapped: not worth a cache."""
    return read_thumbnails(run)


def attributions(run: Run) -> Analysis | None:
    """Heat maps, memory-mapped."""
    return read_attributions(run)


def events(run: Run) -> list[dict[str, Any]]:
    """Training events."""
    return _events(str(run.path), _stamp(run, "events.jsonl"))


def advice(run: Run, question: Question) -> tuple[Recommendation | None, str | None]:
    """The recommendation for what was asked and None, or None and why there is none."""
    return _advice(str(run.path), _stamp(run, "analysis/metrics.parquet", "analysis/analysis.json"), question)


def rule_stops(run: Run) -> list[RuleStop]:
    """Where each simple rule would stop."""
    return _rule_stops(str(run.path), _stamp(run, "analysis/metrics.parquet", "analysis/analysis.json"))


def _stamp(run: Run, *names: str) -> Stamp:
    """Time of change and size of each file: the key under which its contents are cached."""
    return tuple(run.files.stamp(name) for name in names)


@st.cache_data(max_entries=16, show_spinner=False)
def _metrics(path: str, stamp: Stamp) -> pd.DataFrame:
    return read_metrics(Run.open(path))


@st.cache_data(max_entries=8, show_spinner=False)
def _predictions(path: str, stamp: Stamp) -> pd.DataFrame:
    return contents.checked_predictions(Run.open(path))


@st.cache_data(max_entries=8, show_spinner=False)
def _embedding(path: str, method: str, stamp: Stamp) -> pd.DataFrame:
    return contents.checked_embedding(Run.open(path), method)


@st.cache_data(max_entries=16, show_spinner=False)
def _events(path: str, stamp: Stamp) -> list[dict[str, Any]]:
    return Run.open(path).read_events()


@st.cache_data(max_entries=256, show_spinner=False)
def _advice(path: str, stamp: Stamp, question: Question) -> tuple[Recommendation | None, str | None]:
    try:
        return recommend(_metrics(path, stamp), question), None
    except AdviceError as error:
        return None, str(error)


@st.cache_data(max_entries=16, show_spinner=False)
def _rule_stops(path: str, stamp: Stamp) -> list[RuleStop]:
    return rules_beside(_metrics(path, stamp))
