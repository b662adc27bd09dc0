"""What every page that gives advice is asked: tolerance, objective and budgets, as a person picks them."""

import pandas as pd
import streamlit as st

from lwexplain.advice.question import USUAL_OBJECTIVE, USUAL_TOLERANCE, Question
from lwexplain.costs import COSTS
from lwexplain.explorer.run_picker import keep, restore
from lwexplain.text import escape_markdown
from lwexplain.views import contents


def choose_tolerance() -> None:
    """The slider of the tolerance."""
    restore("tolerance", 100 * USUAL_TOLERANCE)
    st.slider(
        "Tolerance (points of accuracy)",
        0.0,
        5.0,
        step=0.1,
        format="%.1f",
        key="tolerance",
        help="How far below the best depth the shorter network may lie. 1 point = 0.01 of accuracy.",
    )
    keep("tolerance")


def choose_objective(table: pd.DataFrame) -> None:
    """Objective and budgets, for the costs that were measured in this run."""
    known = contents.measured_costs(table)
    columns = st.columns(1 + len(COSTS), vertical_alignment="bottom")
    offered = [name for name in (*COSTS, "accuracy") if name in (*known, USUAL_OBJECTIVE, "accuracy")]
    restore("objective", USUAL_OBJECTIVE, offered)
    columns[0].selectbox(
        "Choose by",
        offered,
        key="objective",
        format_func=contents.objective_title,
        help="A cost: the cheapest depth that is enough, within the tolerance. Accuracy: the most accurate depth. "
        "Budgets hold for both.",
    )
    keep("objective")
    for column, (cost, kind) in zip(columns[1:], COSTS.items(), strict=True):
        key = f"budget_{cost}"
        restore(key, None)
        column.number_input(
            kind.field_title,
            min_value=0.0,
            value=None,
            step=kind.field.step,
            format=kind.field.format,
            key=key,
            placeholder="no limit" if cost in known else "not measured",
            disabled=cost not in known,
        )
        keep(key)


def chosen_question(table: pd.DataFrame | None = None) -> Question:
    """What was chosen on Overview, or the usual; with a table, without the budgets of costs that it does not have."""
    kept = st.session_state
    budgets = {}
    for cost, kind in COSTS.items():
        most = kept.get(f"kept_budget_{cost}")
        if most is not None and (table is None or cost in contents.measured_costs(table)):
            budgets[cost] = most * kind.field.size
    tolerance = kept.get("kept_tolerance", 100 * USUAL_TOLERANCE) / 100
    return Question(tolerance, kept.get("kept_objective", USUAL_OBJECTIVE), budgets)


def describe(question: Question) -> str:
    """The question in a few words."""
    objective = contents.objective_title(question.objective)
    parts = [f"a tolerance of {100 * question.tolerance:g} points", f"the objective {objective!r}"]
    parts += [f"a budget of {COSTS[cost].amount(most)}" for cost, most in question.budgets.items()]
    return escape_markdown(f"{', '.join(parts[:-1])} and {parts[-1]}")
