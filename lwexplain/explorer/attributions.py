"""Attributions: sample images x stages, what speaks for and against the predicted class."""

import pandas as pd
import streamlit as st

from lwexplain.explorer import run_reader as reader
from lwexplain.explorer.run_picker import keep, restore
from lwexplain.explorer.run_reader import friendly, show_table
from lwexplain.run import Run
from lwexplain.text import escape_markdown, plain, shell_command
from lwexplain.views.attribution_quality import EXPLANATION, attribution_quality
from lwexplain.views.gallery import attribution_grid_html, invalid_images, invalid_reasons, legend_html

ROWS = 12
PAGE_WIDTH = 920  # pixels that the grid should fill on a common screen


def show(run: Run, table: pd.DataFrame) -> None:
    """Method picker, the grid, and the reasons why a stage's maps must not be read."""
    st.title("Attributions")
    found = reader.attributions(run)
    if found is None or not found.attributions or found.attribution_images is None or found.attribution_labels is None:
        st.info("This analysis holds no attributions. Make them with:", icon=":material/center_focus_strong:")
        st.code(shell_command("lwexplain", "analyze", run.path, "--probes", "attribution"), language="bash")
        return
    methods = list(found.attributions)
    images = found.attribution_images
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    with left:
        restore("attribution_method", methods[0], methods)
        st.selectbox(
            "Method", methods, key="attribution_method", format_func=lambda name: plain(name.replace("_", " "))
        )
    item = found.attributions[keep("attribution_method")]
    starts = list(range(0, len(images), ROWS))
    restore("first_image", 0, starts)
    if len(starts) > 1:
        with right:
            st.radio(
                "Images",
                starts,
                format_func=lambda start: f"{start} to {min(start + ROWS, len(images)) - 1}",
                key="first_image",
                horizontal=True,
            )
    first = keep("first_image")
    reasons = invalid_reasons(item)
    if reasons:
        lines = "\n".join(f"- **{escape_markdown(stage)}**: {escape_markdown(why, 1000)}" for stage, why in reasons)
        st.warning(f"Not valid at {len(reasons)} of {len(item.stages)} stages:\n\n{lines}", icon=":material/block:")
    single = invalid_images(item)
    if single:
        lines = "\n".join(f"- **{escape_markdown(stage)}**: {escape_markdown(why, 1000)}" for stage, why in single)
        with st.expander(f"Single maps that are not valid, at {len(single)} stages"):
            st.markdown(lines)
    st.caption(
        "Each map explains the class written below it: the one that the stage's head predicts. "
        "✓ is the true class, ✗ another one. Point at a map for details."
    )
    with friendly(f"{item.method}"):
        side = max(64, min(128, PAGE_WIDTH // (len(item.stages) + 1) - 10))
        rows = range(first, min(first + ROWS, len(images)))
        classes = [str(name) for name in found.summary["classes"]]
        grid = attribution_grid_html(item, images, found.attribution_labels, classes, rows=rows, side=side)
        st.html(legend_html(item))
        st.html(grid)
    quality = attribution_quality(table, item)
    if not quality.empty:
        st.subheader("Quality of these maps")
        st.caption(EXPLANATION)
        show_table(quality)


if __name__ == "__main__":  # Streamlit runs the file of a page
    with friendly():
        run = reader.current_run()
        show(run, reader.analyzed_table(run))
