"""Compare: two or more runs on one chart, and what is recommended for each."""

from typing import Any

import pandas as pd
import streamlit as st

from lwexplain.advice.recommend import Recommendation
from lwexplain.errors import LwexplainError
from lwexplain.explorer import run_reader as reader
from lwexplain.explorer.question_picker import chosen_question, describe
from lwexplain.explorer.run_picker import keep, restore
from lwexplain.explorer.run_reader import CHART, friendly, show_table
from lwexplain.run import Run
from lwexplain.table import TableInfo
from lwexplain.text import escape_markdown, plain
from lwexplain.views import contents
from lwexplain.views.depth_curve import accuracy_metrics, comparison_figure
from lwexplain.views.metrics import Metrics, title_of

DECIDING = "the one advice is decided on"


def show(runs: dict[str, str]) -> None:
    """Choice of runs, the chart and the table of recommendations."""
    st.title("Compare runs")
    names = list(runs)
    usual = list(dict.fromkeys([st.session_state["run_name"], *names]))[:2]
    restore("compared", usual)
    st.session_state["compared"] = [name for name in st.session_state["compared"] if name in runs]
    st.multiselect("Runs", names, key="compared", placeholder="Choose two or more runs", format_func=plain)
    tables, problems = _read({name: runs[name] for name in keep("compared")})
    for name, problem in problems.items():
        st.warning(f"{escape_markdown(name)}: {escape_markdown(problem, 1000)}", icon=":material/warning:")
    if not tables:
        st.info("Choose two or more analyzed runs.", icon=":material/compare_arrows:")
        return
    if len(tables) == 1:
        st.info("One run is on the chart; choose another to compare it with.", icon=":material/compare_arrows:")
    metrics = [DECIDING, *dict.fromkeys(metric for table in tables.values() for metric in accuracy_metrics(table))]
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        restore("compared_metric", DECIDING, metrics)
        st.selectbox(
            "Accuracy",
            metrics,
            key="compared_metric",
            format_func=lambda metric: metric if metric == DECIDING else plain(_title(metric, tables)),
        )
    with right:
        restore("compared_split", "val", ["val", "test"])
        st.radio("Split", ["val", "test"], key="compared_split", horizontal=True)
    metric, split = keep("compared_metric"), keep("compared_split")
    question = chosen_question()
    advised = {name: reader.advice(Run.open(runs[name]), question) for name in tables}
    figure = comparison_figure(
        tables,
        metric=None if metric == DECIDING else metric,
        recommendations={name: advice for name, (advice, _) in advised.items() if advice is not None},
        split=split,
    )
    st.plotly_chart(figure, theme=None, key="comparison", config=CHART)
    st.subheader("Recommendations")
    st.caption(
        f"★ marks the recommended depth for {describe(question)} (set on Overview); accuracies with 90\u00a0% "
        "intervals. "
        "Runs judged by different accuracies (a trained head, a linear probe) do not compare one to one."
    )
    rows = [_row(name, tables[name], advice) for name, (advice, _) in advised.items()]
    show_table(pd.DataFrame(rows))
    reasons = {name: advice.reason if advice else problem for name, (advice, problem) in advised.items()}
    lines = [f"- **{escape_markdown(name)}**: {escape_markdown(reason, 1000)}" for name, reason in reasons.items()]
    st.markdown("\n".join(lines))


def _title(metric: str, tables: dict[str, pd.DataFrame]) -> str:
    """The title of a metric, as the first run that declares it calls it."""
    known = (Metrics.of(table) for table in tables.values())
    return next((found.title(metric) for found in known if metric in found), title_of(metric))


def _read(runs: dict[str, str]) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Tables by run name, and by run name what is wrong with the others."""
    tables, problems = {}, {}
    for name, path in runs.items():
        try:
            tables[name] = reader.metrics(Run.open(path))
        except LwexplainError as error:
            problems[name] = str(error)
    return tables, problems


def _row(name: str, table: pd.DataFrame, advice: Recommendation | None) -> dict[str, Any]:
    start = {"run": name, "strategy": TableInfo.of(table).strategy or "–"}
    if advice is None:
        return start | {"judged by": "–", "verdict": "none", "stage": "–"}
    start["judged by"] = contents.judged_by(advice)
    numbers = {title: value for title, value, _ in contents.advice_numbers(advice, table)}
    start |= {"verdict": contents.VERDICT_TITLES.get(advice.verdict, advice.verdict), "stage": advice.stage or "–"}
    title = contents.expected_accuracy_title(advice, table)
    if title in numbers and advice.expected_accuracy_interval is not None:
        low, high = advice.expected_accuracy_interval
        numbers[title] += f"  [{low:.3f}, {high:.3f}]"
    return start | {_short(title): value for title, value in numbers.items()}


def _short(title: str) -> str:
    """A column title that leaves room for the others."""
    return title.removeprefix("expected ").replace("parameters", "params")


if __name__ == "__main__":  # Streamlit runs the file of a page
    with friendly():
        runs = st.session_state.get("runs") or {}
        if not runs:
            reader.current_run()  # explains what is missing
        show(runs)
