"""What the commands print: training, the stages of a run, a recommendation, runs side by side."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lwexplain.costs import COSTS, cost_metrics
from lwexplain.table import TableInfo, overall, raw_info
from lwexplain.terminal import say, say_json, say_table
from lwexplain.text import plain
from lwexplain.text_table import LONGEST_CELL, TextTable

if TYPE_CHECKING:
    import pandas as pd

    from lwexplain.advice.recommend import Recommendation
    from lwexplain.advice.simple_rules import RuleStop
    from lwexplain.run import Run

LONGEST_REASON = 1500
LONGEST_SENTENCE = 200

# ---------------------------------------------------------------------- training


def print_training(run: "Run") -> None:
    """The last epoch of every stage, and what training took."""
    last = {event["depth"]: event for event in run.read_events() if event.get("event") == "epoch"}
    say_table(
        TextTable.of(
            [last[depth] for depth in sorted(last)],
            {
                "depth": lambda event: str(event["depth"]),
                "stage": lambda event: event["stage"],
                "train loss": lambda event: f"{event['train_loss']:.4f}",
                "val accuracy": lambda event: _share(event["val_accuracy"]),
                "last lr": lambda event: f"{event['lr']:.2g}",
            },
        )
    )
    if run.manifest.get("stopped"):
        say(f"stopped early: {plain(run.manifest['stopped'])}")
    costs = run.manifest["costs"]
    say(
        f"{run.manifest['seconds']:.0f} s, {costs['images_per_second']:.0f} images/s in the last epoch; activations "
        f"{costs['activation_bytes'] / 2**20:.1f} MiB a step, peak memory {costs['peak_memory_bytes'] / 2**20:.0f} MiB"
    )


# ---------------------------------------------------------------------- measurements

STAGE_COLUMNS: dict[str, tuple[str, str]] = {
    "head val": ("head_accuracy", "val"),
    "head test": ("head_accuracy", "test"),
    "linear val": ("linear_probe_accuracy", "val"),
    "linear test": ("linear_probe_accuracy", "test"),
    "kNN val": ("knn_accuracy", "val"),
    "separability": ("separability_index", "val"),
    "parameters": ("parameters", "none"),
}
"""Title of a column -> the metric and the split that it shows."""


def print_measurements(run: "Run") -> None:
    """A row for each stage, and the probes that failed."""
    from lwexplain.results import read_metrics

    table = read_metrics(run)
    say_table(stages_table(table))
    for failure in TableInfo.of(table).failures:
        where = f" at stage {plain(failure['stage'])}" if failure["stage"] else ""
        say(f"probe {plain(failure['probe'])} failed{where}: {plain(failure['error'], LONGEST_REASON)}")


def stages_table(table: "pd.DataFrame") -> TextTable:
    """A row for each stage: the accuracies, the separability index, the parameters, and what probes of others measured.

    Metrics without a single value have no column.
    """
    rows = overall(table).drop_duplicates(["stage", "metric", "split"])
    values = rows.set_index(["stage", "metric", "split"])["value"].to_dict()
    measured = set(rows["metric"])

    def write(metric: str, split: str, form: Callable[[float], str], stage: tuple[int, str]) -> str:
        value = values.get((stage[1], metric, split))
        return "-" if value is None or _missing(value) else form(value)

    columns: dict[str, Callable[[tuple[int, str]], str]] = {
        "depth": lambda stage: str(stage[0]),
        "stage": lambda stage: stage[1],
    }
    for title, (metric, split) in STAGE_COLUMNS.items():
        if metric in measured:
            columns[title] = partial(write, metric, split, _count if split == "none" else _share)
    for title, (metric, split) in _columns_of_others(table).items():
        columns[title] = partial(write, metric, split, "{:.4g}".format)
    return TextTable.of(enumerate(TableInfo.of(table).stages, start=1), columns)


def _columns_of_others(table: "pd.DataFrame") -> dict[str, tuple[str, str]]:
    """As ``STAGE_COLUMNS``, of the metrics of probes that are not built in: on val, or the first split there is.

    A metric that its probe declares has its title, with an arrow in the better direction, the others have their name.
    """
    from lwexplain.views.metrics import Metrics

    declared = Metrics.of(table)
    built_in = TableInfo.of(table).built_in or []
    known = {*(metric for metric, _ in STAGE_COLUMNS.values()), *cost_metrics()}
    rows = overall(table)
    rows = rows[~rows["probe"].isin(built_in) & ~rows["metric"].isin(known)]
    columns: dict[str, tuple[str, str]] = {}
    for name, splits in rows.groupby("metric", sort=False)["split"]:
        split = "val" if "val" in set(splits) else splits.iloc[0]
        title = declared.heading(str(name)) if str(name) in declared else str(name)
        title = f"{title} ({name})" if title in (*STAGE_COLUMNS, *columns) else title
        columns[title if split == "val" else f"{title} {split}"] = (str(name), split)
    return columns


# ---------------------------------------------------------------------- a recommendation


def print_advice(advice: "Recommendation") -> None:
    """Verdict, stage, reason, expected accuracy, what the whole network reaches, the share of the cost and notes."""
    where = "none" if advice.depth is None else f"{plain(advice.stage)}, depth {advice.depth} of {advice.full_depth}"
    if advice.depth_interval and advice.depth_interval[0] != advice.depth_interval[1]:
        where += f" (90 % interval {advice.depth_interval[0]} to {advice.depth_interval[1]})"
    say(f"recommendation: {plain(advice.verdict)} - {where}")
    say(f"  {plain(advice.reason, LONGEST_REASON)}")
    if advice.expected_accuracy is not None and advice.expected_accuracy_interval is not None:
        low, high = advice.expected_accuracy_interval
        full = "" if advice.full_accuracy is None else f"; full depth {_share(advice.full_accuracy)}"
        interval = f"90 % interval {_share(low)} to {_share(high)}"
        say(f"  expected test accuracy {_share(advice.expected_accuracy)} ({interval}){full}")
    say(f"  full depth on val: {', '.join([*_own_accuracies(advice), f'always guessing {_share(advice.chance)}'])}")
    if any(ratio is not None for ratio in advice.ratios.values()):
        shares = ", ".join(f"{COSTS[cost].title} {_ratio(ratio)}" for cost, ratio in advice.ratios.items())
        say(f"  of the full network's cost: {shares}")
    for note in advice.notes:
        say(f"  note: {plain(note, LONGEST_REASON)}")


def _own_accuracies(advice: "Recommendation") -> list[str]:
    """Own head and probe of the whole network, as far as they were measured, each with its balanced accuracy."""
    found = (
        ("own head", advice.own_head_accuracy, advice.own_head_balanced_accuracy),
        ("linear probe of the last stage", advice.own_probe_accuracy, advice.own_probe_balanced_accuracy),
    )
    return [
        f"{name} {_share(value)}" + ("" if balanced is None else f" (balanced {_share(balanced)})")
        for name, value, balanced in found
        if value is not None
    ]


def print_prospects(advice: "Recommendation") -> None:
    """A row for each depth: what is expected of it and what it costs."""
    from lwexplain.views.pareto import pareto_table

    if advice.prospects:
        say()
        say_table(pareto_table(advice.prospects))


def print_rules(advice: "Recommendation", stops: "Sequence[RuleStop]") -> None:
    """The recommendation and below it a row for each simple rule."""
    from lwexplain.views.simple_rules import rules_table

    say()
    say_table(rules_table(advice, stops), LONGEST_SENTENCE)


# ---------------------------------------------------------------------- several runs


def print_comparison(runs: "pd.DataFrame", as_json: bool) -> None:
    """A row for each run."""
    if as_json:
        say_json(json.loads(runs.to_json(orient="records")))
    else:
        say_table(comparison_table(runs))


def comparison_table(runs: "pd.DataFrame") -> TextTable:
    """A row for each run; balanced accuracies only where the classes of a run are uneven, else they are the same."""
    columns: dict[str, Callable[[Any], str]] = {
        "run": str,
        "strategy": str,
        "source": str,
        "verdict": str,
        "stage": lambda value: value or "-",
        "depth": lambda value: "-" if _missing(value) else str(int(value)),
        "expected_accuracy": _share,
        "full_accuracy": _share,
        "own_head_accuracy": _share,
        "own_probe_accuracy": _share,
        "own_head_balanced_accuracy": _share,
        "own_probe_balanced_accuracy": _share,
        "params_ratio": _ratio,
        "training_seconds": lambda value: "-" if _missing(value) else f"{value:.0f}",
    }
    if not any(note.startswith("uneven classes") for notes in runs["notes"] for note in notes):
        columns = {name: write for name, write in columns.items() if "balanced" not in name}

    def cell(name: str, write: Callable[[Any], str], row: dict[Any, Any]) -> str:
        return write(row[name])

    return TextTable.of(runs.to_dict("records"), {name: partial(cell, name, write) for name, write in columns.items()})


def print_similarity(table: "pd.DataFrame", as_json: bool) -> None:
    """Rows: stages of the first run; columns: those of the second, by number, named below."""
    if as_json:
        say_json(table.to_dict("records"))
        return
    grid = table.pivot(index=["depth", "stage"], columns="other_depth", values="cka_linear")
    rows = [
        [str(depth), stage, *(f"{value:.3f}" for value in alike)]
        for depth, stage, *alike in grid.reset_index().itertuples(index=False, name=None)
    ]
    say_table(TextTable(["depth", "stage", *map(str, grid.columns)], rows))
    others = table.drop_duplicates("other_depth")
    pairs = zip(others["other_depth"], others["other_stage"], strict=True)
    named = ", ".join(f"{depth} {plain(stage, LONGEST_CELL)}" for depth, stage in pairs)
    say(f"linear CKA on {raw_info(table)['n']:,} val images; columns: {named}")


# ---------------------------------------------------------------------- numbers


def _share(value: Any) -> str:
    return "-" if _missing(value) else f"{value:.4f}"


def _ratio(value: Any) -> str:
    return "-" if _missing(value) else f"{100 * value:.1f} %"


def _count(value: float) -> str:
    return f"{int(value):,}"


def _missing(value: Any) -> bool:
    return value is None or value != value
