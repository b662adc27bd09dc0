"""Overview of a run: where to stop and why, accuracy and separability over depth, costs and training."""

from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from lwexplain.advice.question import Question
from lwexplain.advice.recommend import Recommendation
from lwexplain.costs import COSTS, is_cost
from lwexplain.explorer import run_reader as reader
from lwexplain.explorer.monitored import show_monitored
from lwexplain.explorer.question_picker import choose_objective, choose_tolerance, chosen_question
from lwexplain.explorer.run_picker import keep, restore
from lwexplain.explorer.run_reader import CHART, friendly, show_table
from lwexplain.probes.sample_depth import confusion
from lwexplain.run import Run
from lwexplain.run.directory import MONITORED
from lwexplain.table import TableInfo
from lwexplain.text import escape_markdown, plain
from lwexplain.views import contents
from lwexplain.views.costs import cost_figure
from lwexplain.views.depth_curve import depth_figure
from lwexplain.views.metrics import Metrics
from lwexplain.views.pareto import pareto_figure, pareto_table
from lwexplain.views.sample_depth import confusion_figure, sample_depth_figure, sample_depth_source, source_title
from lwexplain.views.separability import panel_families, separability_figure
from lwexplain.views.similarity import similarity_figure, similarity_metrics
from lwexplain.views.simple_rules import rules_table
from lwexplain.views.single_classes import class_figure, closest_pairs_table

DECIDING = "the deciding one"
MOST_NUMBERS = 5  # in a row, so that none is cut short


def show(run: Run, table: pd.DataFrame) -> None:
    """The whole page, from the answer down to the raw numbers."""
    stages = contents.stage_names(table)
    heading, control = st.columns([3, 1], vertical_alignment="bottom")
    with heading:
        st.title(escape_markdown(st.session_state["run_name"]))
        st.caption(escape_markdown(_describe(run, table, len(stages))))
    with control:
        choose_tolerance()
    choose_objective(table)
    question = chosen_question(table)
    advice, problem = reader.advice(run, question)
    # Where nothing fits the budgets, the advice without them tells how far they must be raised.
    outlook = advice or (reader.advice(run, replace(question, budgets={}))[0] if question.budgets else None)
    with st.container(border=True):
        if advice is None:
            st.warning(f"No recommendation: {escape_markdown(problem, 1000)}", icon=":material/help:")
        else:
            show_card(advice, table)
    with friendly("The simple rules"):
        _show_rules(run, advice)
    _show_failures(table)
    _show_depths(table, advice, outlook.source if outlook else None)
    with friendly("Accuracy against cost"):
        _show_against_cost(outlook, advice, question)
    _show_measures(table, advice.depth if advice else None)
    with friendly("The depths of single samples"):
        _show_samples(run, table, advice.depth if advice else None)
    with friendly("The measures of single classes"):
        _show_classes(table)
    with friendly("The similarity of the stages"):
        _show_similarity(table)
    if table["metric"].map(str).map(is_cost).any():
        st.subheader("Cost of each depth")
        st.plotly_chart(
            cost_figure(table, depth=advice.depth if advice else None), theme=None, key="cost", config=CHART
        )
    if not run.is_adopted:
        st.subheader("Training")
        with friendly("The training curve"):
            reader.show_training(run)
    with friendly("The table of further measurements"):
        _show_further(table)
    notes = contents.notes(table)
    if notes:
        with st.expander("Notes on these measurements"):
            st.markdown("\n".join(f"- {escape_markdown(note, 1000)}" for note in notes))


def show_card(advice: Recommendation, table: pd.DataFrame) -> None:
    """The recommendation: verdict, reason, what to expect and what is saved."""
    verdict = escape_markdown(contents.VERDICT_TITLES.get(advice.verdict, advice.verdict))
    where = f": {escape_markdown(advice.stage)} (depth {advice.depth} of {advice.full_depth})" if advice.depth else ""
    st.subheader(f"{verdict}{where}", anchor=False)
    st.markdown(escape_markdown(advice.reason, 1000))
    numbers = contents.advice_numbers(advice, table)
    for row in range(0, len(numbers), MOST_NUMBERS):
        here = numbers[row : row + MOST_NUMBERS]
        columns = st.columns(min(len(numbers), MOST_NUMBERS), gap="small")
        for column, (title, value, remark) in zip(columns, here, strict=False):
            column.metric(title[0].upper() + title[1:], value)
            column.caption(escape_markdown(remark))
    source = contents.SOURCE_TITLES.get(advice.source, advice.source)
    st.caption(
        f"{escape_markdown(contents.chosen_by(advice))} Decided on the val split by {escape_markdown(source)}; "
        f"accuracies are those of test where there is one. Verdict: {escape_markdown(advice.verdict)}."
    )
    for note in advice.notes:
        st.caption(escape_markdown(f"{note[:1].upper()}{note[1:]}."))


def _show_rules(run: Run, advice: Recommendation | None) -> None:
    """Where each simple rule of the literature would stop, below the recommendation."""
    table = rules_table(advice, reader.rule_stops(run))
    frame = pd.DataFrame(table.rows, columns=table.header)
    frame["depth"] = pd.to_numeric(frame["depth"], errors="coerce").astype("Int64")
    with st.expander("Where simple rules would stop", expanded=True, icon=":material/rule:"):
        st.caption(
            "Rules of the literature, each read from these measurements; they take no part in the recommendation."
        )
        show_table(frame, height="content")


def _describe(run: Run, table: pd.DataFrame, depths: int) -> str:
    parts = []
    with friendly("The configuration"):
        config = run.config()
        parts.append(f"{config['model']['name']} on {config['data']['name']}")
    strategy = TableInfo.of(table).strategy
    if strategy:
        parts.append(f"trained by {strategy}")
    parts += [f"{depths} stages", str(run.manifest.get("created", ""))[:10]]
    return " · ".join(part for part in parts if part)


def _show_failures(table: pd.DataFrame) -> None:
    failed = contents.failures(table)
    if failed.empty:
        return
    names = ", ".join(dict.fromkeys(failed["probe"]))
    st.warning(f"Failed probes: {escape_markdown(names)}. The others finished.", icon=":material/warning:")
    with st.expander("What went wrong"):
        show_table(failed)


def _show_depths(table: pd.DataFrame, advice: Recommendation | None, source: str | None) -> None:
    heading, curves, control = st.columns([4, 2, 1.5], vertical_alignment="bottom")
    heading.subheader("Accuracy over depth")
    with curves:
        restore("curves", DECIDING, [DECIDING, "all"])
        st.radio("Curves", [DECIDING, "all"], key="curves", horizontal=True)
    with control:
        restore("split", "val", ["val", "test"])
        st.radio(
            "Split",
            ["val", "test"],
            key="split",
            horizontal=True,
            help="Decisions are taken on val; test is for reporting only.",
        )
    split = keep("split")
    on_val = split == "val"
    figure = depth_figure(
        table,
        recommendation=advice,
        tolerance=contents.band(advice) if on_val else None,
        split=split,
        metrics=[f"{source}_accuracy"] if source and keep("curves") == DECIDING else None,
    )
    st.plotly_chart(figure, theme=None, key="depth_curve", config=CHART)
    frame = contents.depth_table(table, split)
    chosen = advice.depth if advice else None
    frame.insert(0, "", ["★" if depth == chosen else "" for depth in frame["depth"]])
    show_table(frame, column_config=_cost_columns())


def _show_against_cost(outlook: Recommendation | None, advice: Recommendation | None, question: Question) -> None:
    """The prospects of ``outlook``, the depth of ``advice`` marked; None where nothing fits the budgets."""
    if outlook is None or not outlook.prospects:
        return
    prospects, depth, first = outlook.prospects, outlook.depth, question.objective
    if advice is None:
        depth, first = None, contents.tightest(prospects, question.budgets)
    st.subheader("Accuracy against cost")
    st.caption(
        (escape_markdown(contents.chosen_by(advice)) if advice else "No depth keeps the budgets.")
        + " Numbers are depths, intervals hold 90 %. The line joins the depths that no other "
        "one beats; a depth that is not on it is beaten by one that is on val at least as accurate and as cheap."
    )
    figure = pareto_figure(prospects, depth, first, budgets=question.budgets)
    st.plotly_chart(figure, theme=None, key="pareto", config=CHART)
    table = pareto_table(prospects)
    frame = pd.DataFrame(table.rows, columns=table.header)
    for cost, kind in COSTS.items():  # numbers, which a click on a column sorts as such
        if kind.heading in frame:
            frame[kind.heading] = kind.scale * pd.Series([prospect.cost(cost) for prospect in prospects], dtype=float)
    frame["depth"] = [prospect.depth for prospect in prospects]
    frame.insert(0, "", ["★" if prospect.depth == depth else "" for prospect in prospects])
    show_table(frame, column_config=_cost_columns())


def _cost_columns() -> dict[str, Any]:
    """How the columns of costs are written in a table, by their headings."""
    formats = {"count": "compact", "measure": "%.3g"}
    return {kind.heading: st.column_config.NumberColumn(format=formats[kind.format]) for kind in COSTS.values()}


def _show_measures(table: pd.DataFrame, depth: int | None) -> None:
    families = panel_families(table)
    if not families:
        return
    st.subheader("Separability over depth, and other measures")
    st.caption("Val split, with 95 % intervals where there are any; pale dotted lines are of train.")
    for number, (heading, metrics) in enumerate(families.items()):
        st.markdown(f"**{heading}**")
        figure = separability_figure(table, metrics=metrics, depth=depth)
        st.plotly_chart(figure, theme=None, key=f"measures_{number}", config=CHART)


def _show_samples(run: Run, table: pd.DataFrame, depth: int | None) -> None:
    source = sample_depth_source(table)
    if source is None:
        return
    st.subheader("Single samples: at which depth they are right")
    st.caption(f"By the {escape_markdown(source_title(source))} of each stage, on the val split.")
    st.plotly_chart(sample_depth_figure(table, source, depth=depth), theme=None, key="sample_depth", config=CHART)
    with st.expander("What is taken for what"):
        predictions = reader.predictions(run)
        here = predictions[(predictions["source"] == source) & (predictions["split"] == "val")]
        stages = here.drop_duplicates("depth").sort_values("depth")
        names = [str(name) for name in stages["stage"]]
        usual = stages.loc[stages["depth"] == depth, "stage"]
        restore("confused_stage", str(usual.iloc[0]) if len(usual) else names[-1], names)
        st.selectbox("Stage", names, key="confused_stage", format_func=plain)
        classes = contents.class_names(table)
        counts = confusion(predictions, keep("confused_stage"), source=source, split="val", classes=classes)
        st.plotly_chart(confusion_figure(counts, classes), theme=None, key="confusion", config=CHART)


def _show_classes(table: pd.DataFrame) -> None:
    figure, pairs = class_figure(table), closest_pairs_table(table)
    if figure is None and pairs is None:
        return
    st.subheader("Single classes")
    if figure is not None:
        st.caption("A row for each class and a column for each stage; the menu changes the measure.")
        st.plotly_chart(figure, theme=None, key="classes", config=CHART)
    if pairs is not None:
        metric = escape_markdown(Metrics.of(table).title(pairs.metric))
        st.caption(f"The pairs of classes that separate least, by their {metric}.")
        show_table(pairs.rows)


def _show_similarity(table: pd.DataFrame) -> None:
    metrics = similarity_metrics(table)
    if not metrics:
        return
    st.subheader("How alike the stages are")
    st.caption("Centred kernel alignment of every two stages: 1 where they hold the same, near 0 where nothing.")
    known, columns = Metrics.of(table), st.columns(2)
    for place, metric in enumerate(metrics):
        column = columns[place % 2]
        column.markdown(f"**{escape_markdown(known.title(metric))}**")
        column.plotly_chart(similarity_figure(table, metric), theme=None, key=metric, config=CHART)


def _show_further(table: pd.DataFrame) -> None:
    frame = contents.further_measurements(table)
    if frame.empty:
        return
    st.subheader("Further measurements")
    st.caption("What no chart shows, other splits for example. One column for each stage.")
    show_table(frame)


if __name__ == "__main__":  # Streamlit runs the file of a page
    with friendly():
        run = reader.current_run()
        if run.status == MONITORED:
            show_monitored(run)
        else:
            show(run, reader.analyzed_table(run))
