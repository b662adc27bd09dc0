"""What an earlier analysis left that answers the same question, and what a new one would lose of it."""

import pandas as pd

from lwexplain.arguments import shortened
from lwexplain.errors import RunError
from lwexplain.probes.base import PROBES
from lwexplain.results import AnalysisKey, read_metrics
from lwexplain.results.replacing import settle, sizes
from lwexplain.run import Run
from lwexplain.table import TableInfo
from lwexplain.version import VERSION

ALWAYS_MEASURED = {"cost", "receptive_field"}


def kept_analysis(run: Run, key: AnalysisKey, probes: list[str] | None) -> pd.DataFrame | None:
    """The table of an earlier analysis that answers the same question; None where there is something to do.

    That is one of the same key and version, whole and undamaged, that holds what all ``probes`` (None: all there are)
    found, without failures.
    """
    try:
        settle(run)
        summary = run.read_json("analysis/analysis.json")
    except RunError:
        return None
    if not isinstance(summary, dict) or summary.get("key") != key.to_dict():
        return None
    if summary.get("version") != VERSION or summary.get("files") != sizes(run.files.within("analysis")):
        return None
    if probes is None and summary.get("installed") != PROBES.offered():
        return None
    lasting = summary.get("lasting", [])
    enough = summary.get("complete") if probes is None else set(probes) <= set(lasting)
    try:
        table = read_metrics(run) if enough else None
    except RunError:
        return None
    return table if table is not None and _says_all(table) else None


def _says_all(table: pd.DataFrame) -> bool:
    """False for a table of an earlier kind: it lacks what advice is given by today."""
    info = TableInfo.of(table)
    return info.input_shape is not None and all("frequent" in pattern for pattern in (info.patterns or {}).values())


def require_nothing_lost(run: Run, key: AnalysisKey, probes: list[str] | None) -> None:
    """Raise RunError where an analysis with this key, by ``probes`` (None: all), would lose what others have measured.

    Results of other weights or images are no loss: they are not those of this run any more.
    """
    try:
        settle(run)
        summary = run.read_json("analysis/analysis.json")
        known = AnalysisKey(**summary["key"])
        lasting = list(map(str, summary["lasting"]))
    except (RunError, KeyError, TypeError):  # none, or one that is damaged
        return
    lost = sorted(set(lasting) - set(probes or lasting) - ALWAYS_MEASURED)
    if known == key or (known.checkpoint, known.data) != (key.checkpoint, key.data) or not lost:
        return
    names = ("max_samples", "pooling", "precision")
    before, now = known.to_dict(), key.to_dict()
    different = ", ".join(f"{name} {before[name]} (now {now[name]})" for name in names if before[name] != now[name])
    raise RunError(
        f"{run.path} holds results of {shortened(', '.join(lost), 200)}, which would be lost: they were measured with "
        f"{different}. Use the same settings, name these probes too, or add --replace (replace=True) to lose them"
    )
