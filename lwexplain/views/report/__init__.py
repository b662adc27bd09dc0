"""The HTML report of a run: one file that opens offline, with every figure, number and its provenance."""

from lwexplain.views.report.page import render_report as render_report
from lwexplain.views.report.page import write_report as write_report
