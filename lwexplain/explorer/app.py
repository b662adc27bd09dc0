"""The frame of the explorer: the sidebar that picks a run, and the page that is looked at."""

from pathlib import Path

import streamlit as st

from lwexplain.explorer.run_picker import choose_run, started_with

PAGES = Path(__file__).resolve().parent


def show_explorer(script: Path) -> None:
    """Draw the sidebar and the page; ``script`` is the one that Streamlit was started with."""
    st.set_page_config(page_title="lwexplain explorer", page_icon="◧", layout="wide")
    st.html("<style>.stMainBlockContainer { padding-top: 3rem; }</style>")
    page = st.navigation(
        [
            st.Page(PAGES / "overview.py", title="Overview", icon=":material/insights:", default=True),
            st.Page(PAGES / "embeddings.py", title="Embeddings", icon=":material/scatter_plot:"),
            st.Page(PAGES / "attributions.py", title="Attributions", icon=":material/center_focus_strong:"),
            st.Page(PAGES / "compare.py", title="Compare", icon=":material/compare_arrows:"),
        ]
    )
    choose_run(started_with(script))
    page.run()


if __name__ == "__main__":
    show_explorer(Path(__file__))
