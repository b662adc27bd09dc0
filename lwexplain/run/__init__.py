"""The run directory: its files, the one gate to them, and what they may hold."""

from lwexplain.run.directory import Run as Run
