"""The sections of the report that say where to stop: heading, recommendation, simple rules, depths and their costs."""

from typing import Any

import plotly.graph_objects as go

from lwexplain.advice.simple_rules import rules_beside
from lwexplain.table import TableInfo
from lwexplain.views import contents
from lwexplain.views.depth_curve import depth_figure
from lwexplain.views.pareto import pareto_figure, pareto_table
from lwexplain.views.report.draft import Draft, text_table
from lwexplain.views.simple_rules import rules_table


def heading(draft: Draft) -> dict[str, Any]:
    """What was trained, on what and how."""
    return {
        "name": draft.run.path.resolve().name,
        "strategy": TableInfo.of(draft.table).strategy,
        "model": _part_of(draft.config, "model").get("name"),
        "data": _part_of(draft.config, "data").get("name"),
        "created": draft.run.manifest.get("created"),
        "full_depth": draft.advice.full_depth if draft.advice else len(draft.stages),
    }


def recommendation(draft: Draft) -> dict[str, Any]:
    """The verdict, its reason, and what it promises and saves."""
    advice = draft.advice
    numbers = draft.attempt("Recommendation", lambda: contents.advice_numbers(advice, draft.table)) or []
    return {
        "advice": advice,
        "no_advice": draft.no_advice,
        "verdict": contents.VERDICT_TITLES.get(advice.verdict, advice.verdict) if advice else None,
        "source": contents.SOURCE_TITLES.get(advice.source, advice.source) if advice else None,
        "numbers": [(value, f"{title}, {small}") for title, value, small in numbers],
    }


def simple_rules(draft: Draft) -> dict[str, Any]:
    """Where each simple rule would stop."""
    return {"rules": draft.attempt("Simple rules", lambda: rules_table(draft.advice, rules_beside(draft.table)))}


def accuracy_over_depth(draft: Draft) -> dict[str, Any]:
    """The accuracy that decides, all accuracies, and their numbers on val and on test."""
    advice, within = draft.advice, contents.band(draft.advice)

    def figure(**options: Any) -> go.Figure:
        return depth_figure(draft.table, recommendation=advice, tolerance=within, **options)

    def deciding() -> go.Figure | None:
        return None if advice is None else figure(metrics=[f"{advice.source}_accuracy"], height=330)

    return {
        "decision": draft.draw("The deciding accuracy", deciding),
        "curve": draft.draw("Accuracy over depth", figure),
        "depths": draft.attempt("Table over depth", lambda: depth_tables(draft)) or {},
    }


def depth_tables(draft: Draft) -> dict[str, dict[str, Any]]:
    """By split, the table with a row for each depth, and the depths of its rows."""
    present = set(draft.table.loc[draft.table["metric"].str.endswith("_accuracy"), "split"])
    tables = {}
    for split in ("val", "test"):
        if split in present:
            frame = contents.depth_table(draft.table, split)
            tables[split] = {"table": text_table(frame), "depths": [int(depth) for depth in frame["depth"]]}
    return tables


def accuracy_against_cost(draft: Draft) -> dict[str, Any]:
    """Expected accuracy of every depth against its costs; nothing where there is no signal."""
    return {"pareto": draft.attempt("Accuracy against cost", lambda: _against_cost(draft))}


def _against_cost(draft: Draft) -> dict[str, Any] | None:
    advice = draft.advice
    if advice is None or not advice.prospects:
        return None
    figure = pareto_figure(advice.prospects, advice.depth, advice.objective, budgets=advice.budgets)
    return {
        "figure": draft.add(figure),
        "table": pareto_table(advice.prospects),
        "depths": [prospect.depth for prospect in advice.prospects],
        "chosen_by": contents.chosen_by(advice),
    }


def _part_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}
