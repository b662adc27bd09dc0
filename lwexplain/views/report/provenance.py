"""The sections of the report on where its numbers come from: failed probes, notes, and who made what with what."""

from typing import Any

from lwexplain.run import Run
from lwexplain.views import contents
from lwexplain.views.report.draft import Draft

LONGEST_LIST = 60
"""Entries of one kind."""


def remarks(draft: Draft) -> dict[str, Any]:
    """Failed probes, and what a reader must know of the measurements."""
    return {
        "failures": draft.attempt("Failed probes", lambda: contents.failures(draft.table).to_dict("records")) or [],
        "notes": draft.attempt("Notes", lambda: contents.notes(draft.table)) or [],
    }


def provenance(draft: Draft) -> dict[str, Any]:
    """Run, analysis, environment, configuration and files, as names and values."""
    run = draft.run
    parts = (
        ("Run", {key: value for key, value in run.manifest.items() if key not in ("files", "format")}),
        ("Analysis", draft.attempt("Analysis", lambda: run.read_json("analysis/analysis.json"))),
        ("Environment", draft.attempt("Environment", lambda: run.read_json("environment.json"))),
        ("Configuration", draft.config),
        ("Files (SHA-256)", _hashes(run)),
    )
    return {"provenance": [(title, list(contents.flatten(tree))[:LONGEST_LIST]) for title, tree in parts if tree]}


def _hashes(run: Run) -> dict[str, str]:
    files = run.manifest.get("files")
    if not isinstance(files, dict):
        return {}
    return {str(name): str(entry.get("sha256")) for name, entry in files.items() if isinstance(entry, dict)}
