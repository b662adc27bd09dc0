"""The explorer: pages that look into run directories, served by Streamlit to this machine only.

``server`` starts it, ``app`` frames the pages, and there is one module for each page. They read files that an
analysis left behind, compute nothing heavy and load no torch.
"""
