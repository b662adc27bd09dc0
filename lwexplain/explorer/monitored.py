"""The page of a run that lw.Monitor made: what its looks saw, drawn anew while more of them come."""

import streamlit as st

from lwexplain.explorer import run_reader as reader
from lwexplain.explorer.run_picker import keep, restore
from lwexplain.explorer.run_reader import CHART, friendly
from lwexplain.results.looks import looks_table, troubles_of_last_look
from lwexplain.run import Run
from lwexplain.text import escape_markdown
from lwexplain.views.looks import drift_figure, look_title, looks_depth_figure, looks_epochs_figure
from lwexplain.views.looks_in_words import looks_in_words

OVER_EPOCHS = ("linear_probe_accuracy", "ncm_accuracy", "separability_index")
EVERY = "5s"


def show_monitored(run: Run) -> None:
    """Everything the looks measured; read anew every few seconds until the monitor has ended."""

    def state() -> None:
        with friendly("What the monitor saw"):
            _show(Run.open(run.path))

    st.title(escape_markdown(st.session_state["run_name"]))
    st.fragment(state, run_every=None if _has_ended(run) else EVERY)()
    st.markdown("A monitored run holds no network. When the training is over, adopt it, for advice and export:")
    st.code('lw.adopt(model, loaders, out="runs/mine")', language="python")


def _show(run: Run) -> None:
    events, about = reader.events(run), run.manifest.get("monitor", {})
    table, chance = looks_table(events), about.get("chance")
    st.caption(escape_markdown(_describe(run, int(table["epoch"].nunique()))))
    if table.empty:
        st.info("No look has been taken yet. The first comes with the first monitor.step(epoch).")
        return
    with st.container(border=True):
        for sentence in looks_in_words(table, chance=chance):
            st.markdown(escape_markdown(sentence, 1000))
    troubles = troubles_of_last_look(events)
    for stage, reason in list(troubles.items())[:3]:
        st.warning(f"{escape_markdown(stage)}: {escape_markdown(reason, 1000)}", icon=":material/warning:")
    st.subheader("Accuracy over depth")
    st.caption(
        "Probes are fitted on one half of the val images looked at and scored on the other. Bars are 95 % intervals; "
        "the dotted line is the share of the most frequent class."
    )
    st.plotly_chart(looks_depth_figure(table, chance=chance), theme=None, key="looks_depth", config=CHART)
    st.subheader("Each stage over the epochs")
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        restore("looks_metric", OVER_EPOCHS[0], OVER_EPOCHS)
        st.radio("Measure", OVER_EPOCHS, key="looks_metric", format_func=_heading, horizontal=True)
        st.plotly_chart(looks_epochs_figure(table, keep("looks_metric")), theme=None, key="looks_epochs", config=CHART)
    with right:
        st.caption("Effective rank: how many directions the features of a stage use.")
        st.plotly_chart(looks_epochs_figure(table, "effective_rank"), theme=None, key="looks_rank", config=CHART)
    st.subheader("Drift: how much each stage changed since the look before")
    st.caption("1 − linear CKA on the same images: 0 where a stage holds what it held, near 1 where nothing is alike.")
    st.plotly_chart(drift_figure(table), theme=None, key="drift", config=CHART)


def _describe(run: Run, looks: int) -> str:
    """What is looked at, and what it costs."""
    about, progress = run.manifest.get("monitor", {}), run.manifest.get("progress")
    parts = [
        f"{run.manifest.get('model', 'a network')} in somebody's training loop",
        f"{looks} look{'s' * (looks != 1)}",
    ]
    if "images_a_look" in about:
        parts.append(f"{about['images_a_look']:,} val images each")
    if "overhead" in about:
        parts.append(f"{100 * about['overhead']:.1f} % of the training's time")
    return " · ".join([*parts, *([str(progress)] if progress else [])])


def _has_ended(run: Run) -> bool:
    return str(run.manifest.get("progress") or "").startswith("ended")


def _heading(metric: str) -> str:
    title = look_title(metric)
    return title[:1].upper() + title[1:]
