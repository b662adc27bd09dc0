"""From the parts of single probes to one analysis: tables in a fixed order, nothing said twice."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from lwexplain.analysis.parts import Part
from lwexplain.metrics import Metric
from lwexplain.probes.accuracy import balanced_rows
from lwexplain.probes.base import StageData
from lwexplain.probes.engine import ALWAYS, built_in_probes
from lwexplain.probes.metrics.find import find_metrics
from lwexplain.probes.sample_depth import depth_rows
from lwexplain.results import PREDICTION_COLUMNS, Analysis, correctness_patterns, metrics_frame
from lwexplain.table import TableInfo


def assemble_analysis(parts: Sequence[Part], info: TableInfo, stages: Sequence[StageData]) -> Analysis:
    """The analysis of ``stages`` that ``parts`` make together; ``info`` is what the parts do not say of the table.

    What two probes give (the same metric of the same stage, split and class; the same source of predictions, layout
    or attribution method) stays as the first of them gave it, built-in probes first; the other is told so in the
    ``failures``. The table says of its metrics what their probes declare.
    """
    built_in = [*ALWAYS, *built_in_probes()]
    ordered = sorted(parts, key=lambda part: (part.probe not in built_in, part.order, part.probe))
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
    measured = [*rows.values(), *balanced_rows(rows.values(), stages[0].classes)]
    measured += _depth_rows(whole.predictions, stages)
    names = [stage.name for stage in stages]
    info = replace(
        info,
        stages=names,
        patterns=correctness_patterns(whole.predictions, names),
        failures=failures,
        metrics=_declarations(ordered, [str(row["metric"]) for row in measured]),
    )
    whole.metrics = metrics_frame(measured, info)
    whole.summary = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "probe_seconds": {part.probe: round(part.found.seconds.get(part.probe, 0.0), 3) for part in ordered},
    }
    return whole


def _declarations(parts: Sequence[Part], metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What is declared of ``metrics``, as it is stored: by the first probe that does, or because of what it follows
    from."""
    declared: dict[str, Metric] = {}
    for part in parts:
        declared |= {name: metric for name, metric in part.found.metrics.items() if name not in declared}
    return {name: metric.to_dict() for name, metric in find_metrics(metrics, declared).items()}


def _depth_rows(predictions: pd.DataFrame, stages: Sequence[StageData]) -> list[dict[str, Any]]:
    """At which depth samples are understood: rows that follow from the predictions of all stages."""
    rows = depth_rows(predictions, [stage.name for stage in stages], stages[0].seed)
    return [row | {"note": stages[0].note(row["split"])} for row in rows]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    label = row["class"]
    return row["stage"], row["metric"], row["split"], label if isinstance(label, str) else None
