"""Embeddings: the val samples in two dimensions, stage by stage; a selection shows its images."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from lwexplain.explorer import run_reader as reader
from lwexplain.explorer.run_picker import keep, restore
from lwexplain.explorer.run_reader import friendly
from lwexplain.run import Run
from lwexplain.text import escape_markdown, plain, shell_command
from lwexplain.views import contents
from lwexplain.views.embedding import class_name, embedding_figure
from lwexplain.views.gallery import Shown, gallery_html

MOST_SHOWN = 64
CHART = {
    "displaylogo": False,
    "displayModeBar": True,
    "scrollZoom": True,
    "modeBarButtonsToRemove": ["autoScale2d"],
}
COLOURINGS = {"class": "class", "outcome": "right or wrong"}


def show(run: Run, table: pd.DataFrame) -> None:
    """Controls, the scatter on the left, the images of the selection on the right."""
    st.title("Embeddings")
    methods = reader.embedding_methods(run)
    if not methods:
        st.info("This analysis holds no embedding. Make one with:", icon=":material/scatter_plot:")
        st.code(shell_command("lwexplain", "analyze", run.path, "--probes", "umap"), language="bash")
        return
    left, middle, right = st.columns([1, 2, 1], vertical_alignment="bottom")
    with left:
        method = _choose_method(methods)
    frame = reader.embedding(run, method)
    frame = frame[frame["split"] == "val"]  # predictions and thumbnails are those of val
    if frame.empty:
        st.info("This layout shows no val samples, the only ones this page has images of.", icon=":material/info:")
        return
    with middle:
        stage = _choose_stage(frame, contents.stage_names(table))
    predicted = contents.stage_predictions(reader.predictions(run), stage)
    with right:
        colouring = _choose_colouring()
    if colouring == "outcome" and predicted.empty:
        st.caption("No prediction was recorded at this stage, so right and wrong cannot be told.")
    classes = contents.class_names(table)

    chart, gallery = st.columns([3, 2])
    place = f"{run.path}|{method}|{stage}"
    elsewhere = _selected_elsewhere(run, place)
    figure = embedding_figure(
        frame,
        stage,
        classes,
        predicted=None if predicted.empty else predicted,
        colour_by=colouring,
        selected=elsewhere,
    )
    with chart:
        samples = _show_chart(figure, stage)
    _remember(samples, place)
    with gallery, friendly("The gallery"):
        _show_gallery(run, frame, samples or elsewhere, predicted, classes)


def selected_samples(event: Mapping[str, Any]) -> list[int]:
    """Sample numbers of a selection. Point indices are per trace, so each point carries its sample number."""
    samples = []
    for point in event["selection"]["points"]:
        carried = point.get("customdata")
        if isinstance(carried, (list, tuple)):
            carried = carried[0] if carried else None
        if carried is not None:
            samples.append(int(carried))
    return list(dict.fromkeys(samples))


def _choose_method(methods: list[str]) -> str:
    restore("method", "umap" if "umap" in methods else methods[0], methods)
    st.selectbox("Method", methods, key="method", format_func=plain)
    return keep("method")


def _choose_stage(frame: pd.DataFrame, stages: list[str]) -> str:
    """The stage slider; stages without points are left out."""
    depths = dict(frame[["stage", "depth"]].drop_duplicates("stage").itertuples(index=False, name=None))
    stages = [stage for stage in stages if stage in depths] or sorted(depths)
    restore("stage", stages[-1], stages)
    if len(stages) == 1:
        st.markdown(f"Stage: {escape_markdown(stages[0])}")
    else:
        st.select_slider(
            "Stage (shallow to deep)",
            stages,
            key="stage",
            format_func=lambda stage: escape_markdown(f"depth {depths.get(stage, '?')}: {stage}"),
        )
    return keep("stage")


def _choose_colouring() -> str:
    restore("colouring", "class", list(COLOURINGS))
    st.radio("Colour by", list(COLOURINGS), format_func=COLOURINGS.get, key="colouring", horizontal=True)
    return keep("colouring")


def _show_chart(figure: go.Figure, stage: str) -> list[int]:
    """Draw the scatter; returns the samples that are selected on it."""
    event = st.plotly_chart(
        figure,
        theme=None,
        key=f"embedding_{stage}",
        on_select="rerun",
        selection_mode=("box", "lasso", "points"),
        config=CHART,
    )
    st.caption(
        "Click a point, or several with Shift held; or choose lasso or box at the top right of the chart and draw "
        "around points. The axes have no unit: each stage is scaled to the same spread."
    )
    return selected_samples(event)


def _selected_elsewhere(run: Run, place: str) -> list[int]:
    """The samples that were selected at another stage or in another layout of this run, to be followed here."""
    samples, chosen_at = st.session_state.get("chosen_samples", ([], ""))
    return samples if chosen_at != place and chosen_at.startswith(f"{run.path}|") else []


def _remember(samples: list[int], place: str) -> None:
    """Keep the selection for other stages; one that was taken back here is forgotten."""
    if samples:
        st.session_state["chosen_samples"] = (samples, place)
    elif st.session_state.get("chosen_samples", ([], ""))[1] == place:
        st.session_state["chosen_samples"] = ([], "")


def _show_gallery(run: Run, frame: pd.DataFrame, samples: list[int], predicted: pd.Series, classes: list[str]) -> None:
    st.subheader("Selected images", anchor=False)
    pictures = reader.thumbnails(run)
    if pictures is None:
        st.caption("This analysis kept no thumbnails.")
        return
    if not samples:
        st.caption("Nothing is selected. Images of selected points appear here, with their true and predicted class.")
        return
    labels = frame.drop_duplicates("sample").set_index("sample")["label"]
    samples = [sample for sample in samples if 0 <= sample < len(pictures) and sample in labels.index]
    wrong = {sample for sample in samples if sample in predicted.index and predicted[sample] != labels[sample]}
    samples.sort(key=lambda sample: sample not in wrong)  # wrong ones first, otherwise in the order selected
    counts = f"{len(samples)} selected" + (f", {len(wrong)} of them wrong at this stage" if not predicted.empty else "")
    more = f"; {MOST_SHOWN} are shown, wrong ones first" if len(samples) > MOST_SHOWN else ""
    st.caption(f"{counts}{more}. Below each image: true class, then the predicted one.")
    shown = [
        Shown(
            sample,
            pictures[sample],
            class_name(classes, labels[sample]),
            class_name(classes, predicted[sample]) if sample in predicted.index else None,
        )
        for sample in samples[:MOST_SHOWN]
    ]
    with st.container(height=540, border=False):
        st.html(gallery_html(shown))


if __name__ == "__main__":  # Streamlit runs the file of a page
    with friendly():
        run = reader.current_run()
        show(run, reader.analyzed_table(run))
