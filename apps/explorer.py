"""The explorer for ``streamlit run apps/explorer.py [-- FOLDER...]``; ``lwexplain explore [FOLDER]`` shows the same."""

from pathlib import Path

from lwexplain.explorer.app import show_explorer

show_explorer(Path(__file__))
