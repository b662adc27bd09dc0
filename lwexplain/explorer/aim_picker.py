"""What a depth is chosen by, on every page that gives advice: tolerance, objective and budgets."""

import pandas as pd
import streamlit as st

from lwexplain.advice.objective import amount
from lwexplain.explorer.run_picker import keep, restore
from lwexplain.explorer.run_reader import Aim
from lwexplain.text import escape_markdown
from lwexplain.views import contents

USUAL_TOLERANCE = 0.5
USUAL_OBJECTIVE = "params"

# Cost -> title of its field, how many of the cost's own unit the field's one is, its step and its format.
BUDGETS = {
    "params": ("Most parameters", 1.0, 1000.0, "%.0f"),
    "flops": ("Most FLOPs (millions)", 1e6, 1.0, "%.6g"),
    "latency": ("Most latency (ms)", 1e-3, 0.1, "%.6g"),
    "memory": ("Most memory (MiB)", 2.0**20, 0.1, "%.6g"),
}


def choose_tolerance() -> None:
    """The slider of the tolerance."""
    restore("tolerance", USUAL_TOLERANCE)
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
    columns = st.columns(1 + len(BUDGETS), vertical_alignment="bottom")
    objectives = [name for name in contents.OBJECTIVES if name in (*known, USUAL_OBJECTIVE, "accuracy")]
    restore("objective", USUAL_OBJECTIVE, objectives)
    columns[0].selectbox(
        "Choose by",
        objectives,
        key="objective",
        format_func=contents.OBJECTIVES.__getitem__,
        help="A cost: the cheapest depth that is enough, within the tolerance. Accuracy: the most accurate depth. "
        "Budgets hold for both.",
    )
    keep("objective")
    for column, (cost, (title, _, step, form)) in zip(columns[1:], BUDGETS.items(), strict=True):
        key = f"budget_{cost}"
        restore(key, None)
        column.number_input(
            title,
            min_value=0.0,
            value=None,
            step=step,
            format=form,
            key=key,
            placeholder="no limit" if cost in known else "not measured",
            disabled=cost not in known,
        )
        keep(key)


def chosen_aim(table: pd.DataFrame | None = None) -> Aim:
    """What was chosen on Overview, or the usual; with a table, without the budgets of costs that it does not have."""
    kept = st.session_state
    budgets = []
    for cost, (_, unit, _, _) in BUDGETS.items():
        most = kept.get(f"kept_budget_{cost}")
        if most is not None and (table is None or cost in contents.measured_costs(table)):
            budgets.append((cost, most * unit))
    tolerance = kept.get("kept_tolerance", USUAL_TOLERANCE) / 100
    return Aim(tolerance, kept.get("kept_objective", USUAL_OBJECTIVE), tuple(budgets))


def describe(aim: Aim) -> str:
    """The choice in a few words."""
    parts = [f"a tolerance of {100 * aim.tolerance:g} points", f"the objective {contents.OBJECTIVES[aim.objective]!r}"]
    parts += [f"a budget of {amount(cost, most)}" for cost, most in aim.budgets]
    return escape_markdown(f"{', '.join(parts[:-1])} and {parts[-1]}")
