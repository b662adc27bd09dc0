"""Figures (plotly), HTML pieces and the report. The app, the report and notebooks draw with the same functions.

Nothing here imports torch: all of it reads tables and arrays.
"""
