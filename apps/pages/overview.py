"""Overview of a run: where to stop and why, accuracy and separability over depth, costs and training."""

from typing import Any

import pandas as pd
import run_reader as reader
import streamlit as st
from run_picker import keep, open_by_explorer, restore
from run_reader import CHART, friendly, plain

from lwexplain.run import Run
from lwexplain.views import contents
from lwexplain.views.costs import cost_figure
from lwexplain.views.depth_curve import depth_figure
from lwexplain.views.separability import panel_metrics, separability_figure
from lwexplain.views.theme import COSTS

DECIDING = "the deciding one"


def show(run: Run, table: pd.DataFrame) -> None:
    """The whole page, from the answer down to the raw numbers."""
    stages = contents.stage_names(table)
    heading, control = st.columns([3, 1], vertical_alignment="bottom")
    with heading:
        st.title(plain(st.session_state["run_name"]))
        st.caption(plain(_describe(run, table, len(stages))))
    with control:
        restore("tolerance", 0.5)
        st.slider(
            "Tolerance (points of accuracy)",
            0.0,
            5.0,
            step=0.1,
            format="%.1f",
            key="tolerance",
            help="How far below the best depth the shorter network may lie. 1 point = 0.01 of accuracy.",
        )
    tolerance = keep("tolerance") / 100
    advice, problem = reader.advice(run, tolerance)
    with st.container(border=True):
        if advice is None:
            st.warning(f"No recommendation: {plain(problem)}", icon=":material/help:")
        else:
            show_card(advice, table)
    _show_failures(table)
    _show_depths(table, advice, tolerance)
    if panel_metrics(table):
        st.subheader("Separability over depth")
        figure = separability_figure(table, depth=advice.depth if advice else None)
        st.plotly_chart(figure, theme=None, key="separability", config=CHART)
    if table["metric"].isin(COSTS).any():
        st.subheader("Cost of each depth")
        st.plotly_chart(
            cost_figure(table, depth=advice.depth if advice else None), theme=None, key="cost", config=CHART
        )
    st.subheader("Training")
    with friendly("The training curve"):
        reader.show_training(run)
    with friendly("The table of further measurements"):
        _show_further(table)
    notes = contents.notes(table)
    if notes:
        with st.expander("Notes on these measurements"):
            st.markdown("\n".join(f"- {plain(note)}" for note in notes))


def show_card(advice: Any, table: pd.DataFrame) -> None:
    """The recommendation: verdict, reason, what to expect and what is saved."""
    verdict = plain(contents.VERDICTS.get(advice.verdict, advice.verdict))
    where = f": {plain(advice.stage)} (depth {advice.depth} of {advice.full_depth})" if advice.depth else ""
    st.subheader(f"{verdict}{where}", anchor=False)
    st.markdown(plain(advice.reason))
    numbers = contents.advice_numbers(advice, table)
    if numbers:
        widths = [max(len(remark), 16) for _, _, remark in numbers]
        for column, (title, value, remark) in zip(st.columns(widths, gap="small"), numbers, strict=True):
            column.metric(title[0].upper() + title[1:], value)
            column.caption(plain(remark))
    source = contents.SOURCES.get(advice.source, advice.source)
    st.caption(
        f"Decided on the val split by {plain(source)}; accuracies are those of test where there is one. "
        f"Verdict: {plain(advice.verdict)}."
    )


def _describe(run: Run, table: pd.DataFrame, depths: int) -> str:
    parts = []
    with friendly("The configuration"):
        config = run.config()
        parts.append(f"{config['model']['name']} on {config['data']['name']}")
    if table.attrs.get("strategy"):
        parts.append(f"trained by {table.attrs['strategy']}")
    parts += [f"{depths} stages", str(run.manifest.get("created", ""))[:10]]
    return " · ".join(part for part in parts if part)


def _show_failures(table: pd.DataFrame) -> None:
    failed = contents.failures(table)
    if failed.empty:
        return
    names = ", ".join(dict.fromkeys(failed["probe"]))
    st.warning(f"Failed probes: {plain(names)}. The others finished.", icon=":material/warning:")
    with st.expander("What went wrong"):
        st.dataframe(failed, hide_index=True)


def _show_depths(table: pd.DataFrame, advice: Any, tolerance: float) -> None:
    heading, curves, control = st.columns([4, 2, 1.5], vertical_alignment="bottom")
    heading.subheader("Accuracy over depth")
    with curves:
        restore("curves", DECIDING, [DECIDING, "all"])
        st.radio("Curves", [DECIDING, "all"], key="curves", horizontal=True)
    with control:
        restore("split", "val", ["val", "test"])
        st.radio(
            "Split",
            ["val", "test"],
            key="split",
            horizontal=True,
            help="Decisions are taken on val; test is for reporting only.",
        )
    split = keep("split")
    on_val = split == "val"
    figure = depth_figure(
        table,
        recommendation=advice,
        tolerance=tolerance if advice and on_val else None,
        split=split,
        metrics=[f"{advice.source}_accuracy"] if advice and keep("curves") == DECIDING else None,
    )
    st.plotly_chart(figure, theme=None, key="depth_curve", config=CHART)
    frame = contents.depth_table(table, split)
    chosen = advice.depth if advice else None
    frame.insert(0, "", ["★" if depth == chosen else "" for depth in frame["depth"]])
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "parameters": st.column_config.NumberColumn(format="compact"),
            "FLOPs": st.column_config.NumberColumn(format="compact"),
            "latency (ms)": st.column_config.NumberColumn(format="%.3g"),
        },
    )


def _show_further(table: pd.DataFrame) -> None:
    frame = contents.further_measurements(table)
    if frame.empty:
        return
    st.subheader("Further measurements")
    st.caption("What no chart shows: other splits, single classes. One column a stage.")
    st.dataframe(frame, hide_index=True)


open_by_explorer()
with friendly():
    run = reader.current_run()
    show(run, reader.analyzed_table(run))
