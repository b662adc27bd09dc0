"""The explorer: looks into run directories. Start it with ``lwexplain explore [FOLDER]``, or with
``streamlit run apps/explorer.py [-- FOLDER...]``; both answer this machine only.

It reads files that an analysis left behind, computes nothing heavy and loads no torch.
"""

import sys
from pathlib import Path

import streamlit as st

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:  # `streamlit run` puts it there, other ways of starting the script do not
    sys.path.insert(0, str(HERE))

from run_picker import OPENED, choose_run, started_with  # noqa: E402

st.set_page_config(page_title="lwexplain explorer", page_icon="◧", layout="wide")
st.html("<style>.stMainBlockContainer { padding-top: 3rem; }</style>")

page = st.navigation(
    [
        st.Page(HERE / "pages" / "overview.py", title="Overview", icon=":material/insights:", default=True),
        st.Page(HERE / "pages" / "embeddings.py", title="Embeddings", icon=":material/scatter_plot:"),
        st.Page(HERE / "pages" / "attributions.py", title="Attributions", icon=":material/center_focus_strong:"),
        st.Page(HERE / "pages" / "compare.py", title="Compare", icon=":material/compare_arrows:"),
    ]
)
choose_run(started_with())
st.session_state[OPENED] = True
page.run()
