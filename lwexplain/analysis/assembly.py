"""From the parts of single probes to one analysis: tables in a fixed order, nothing said twice."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from lwexplain.analysis.parts import Part
from lwexplain.probes.accuracy import balanced_rows
from lwexplain.probes.base import StageData
from lwexplain.probes.engine import in_order
from lwexplain.probes.sample_depth import depth_rows
from lwexplain.results import PREDICTION_COLUMNS, Analysis, correctness_patterns, metrics_frame


def assemble_analysis(parts: Sequence[Part], attrs: dict[str, Any], stages: Sequence[StageData]) -> Analysis:
    """The analysis of ``stages`` that ``parts`` make together; ``attrs`` are the other attributes of the table.

    What two probes give (the same metric of the same stage, split and class; the same source of predictions, layout
    or attribution method) stays as the first of them gave it, built-in probes first; the other is told so in the
    ``failures``.
    """
    names = in_order([part.probe for part in parts])
    ordered = sorted(parts, key=lambda part: names.index(part.probe))
    failures = [failure for part in ordered for failure in part.found.failures]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    sources: dict[str, str] = {}
    predictions = []
    whole = Analysis(metrics=pd.DataFrame(), predictions=pd.DataFrame(columns=PREDICTION_COLUMNS))
    for part in ordered:
        found = part.found
        clashes: list[tuple[str | None, str, str]] = []
        for row in found.rows:
            known = rows.setdefault(_key(row), row)
            if known is not row:
                clashes.append((row["stage"], f"{row['metric']} on {row['split']}", known["probe"]))
        for source in found.predictions["source"].unique():
            if sources.setdefault(source, part.probe) == part.probe:
                predictions.append(found.predictions[found.predictions["source"] == source])
            else:
                clashes.append((None, f"predictions {source}", sources[source]))
        clashes += [(None, f"embedding {name}", "another") for name in set(found.embeddings) & set(whole.embeddings)]
        clashes += [
            (None, f"attribution {name}", "another") for name in set(found.attributions) & set(whole.attributions)
        ]
        whole.embeddings = found.embeddings | whole.embeddings
        whole.attributions = found.attributions | whole.attributions
        failures += [
            {"probe": part.probe, "stage": stage, "error": f"{thing} stays as probe {giver!r} gave it"}
            for stage, thing, giver in clashes
        ]
    if predictions:
        whole.predictions = pd.concat(predictions, ignore_index=True)
        whole.predictions = whole.predictions.astype(dict.fromkeys(("split", "stage", "source"), "category"))
    attrs = {"stages": [stage.name for stage in stages], **attrs}
    attrs |= {"patterns": correctness_patterns(whole.predictions, attrs["stages"]), "failures": failures}
    measured = [*rows.values(), *balanced_rows(rows.values(), stages[0].classes)]
    whole.metrics = metrics_frame([*measured, *_depth_rows(whole.predictions, stages)], attrs)
    whole.summary = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "probe_seconds": {part.probe: round(part.found.seconds.get(part.probe, 0.0), 3) for part in ordered},
    }
    return whole


def _depth_rows(predictions: pd.DataFrame, stages: Sequence[StageData]) -> list[dict[str, Any]]:
    """At which depth samples are understood: rows that follow from the predictions of all stages."""
    rows = depth_rows(predictions, [stage.name for stage in stages], stages[0].seed)
    return [row | {"note": stages[0].note(row["split"])} for row in rows]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    label = row["class"]
    return row["stage"], row["metric"], row["split"], label if isinstance(label, str) else None
