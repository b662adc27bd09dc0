"""What the commands print: the stages of a run, a recommendation, runs side by side."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lwexplain.costs import COSTS, cost_metrics
from lwexplain.terminal import LONGEST_CELL, say, say_json, say_table
from lwexplain.text import plain

if TYPE_CHECKING:
    from lwexplain.run import Run

LONGEST_REASON = 1500


def print_run(run: "Run") -> None:
    """The measurements and the recommendation of an analyzed run."""
    from lwexplain import api

    print_table(run)
    print_advice(api.recommend(run))


def print_training(run: "Run") -> None:
    """The last epoch of every stage, and what training took."""
    last = {event["depth"]: event for event in run.read_events() if event.get("event") == "epoch"}
    rows = [
        [str(depth), event["stage"], f"{event['train_loss']:.4f}", _share(event["val_accuracy"]), f"{event['lr']:.2g}"]
        for depth, event in sorted(last.items())
    ]
    say_table(["depth", "stage", "train loss", "val accuracy", "last lr"], rows)
    if run.manifest.get("stopped"):
        say(f"stopped early: {plain(run.manifest['stopped'])}")
    costs = run.manifest["costs"]
    say(
        f"{run.manifest['seconds']:.0f} s, {costs['images_per_second']:.0f} images/s in the last epoch; activations "
        f"{costs['activation_bytes'] / 2**20:.1f} MiB a step, peak memory {costs['peak_memory_bytes'] / 2**20:.0f} MiB"
    )


def print_table(run: "Run") -> None:
    """One row a stage: the accuracies, the separability index, the parameters and what probes of others measured."""
    from lwexplain.results import read_metrics

    table = read_metrics(run)
    overall = table[table["class"].isna()]
    columns = [
        ("head val", "head_accuracy", "val", _share),
        ("head test", "head_accuracy", "test", _share),
        ("linear val", "linear_probe_accuracy", "val", _share),
        ("linear test", "linear_probe_accuracy", "test", _share),
        ("kNN val", "knn_accuracy", "val", _share),
        ("separability", "separability_index", "val", _share),
        ("parameters", "parameters", "none", lambda value: f"{int(value):,}"),
    ]
    known = {*(column[1] for column in columns), *cost_metrics()}
    foreign = overall[overall["probe"].isin(_third_party(table))]
    custom = [name for name in foreign["metric"].unique() if name not in known]
    for name in custom:
        splits = list(foreign[foreign["metric"] == name]["split"].unique())
        shown = "val" if "val" in splits else splits[0]
        columns.append((name if shown == "val" else f"{name} {shown}", name, shown, lambda value: f"{value:.4g}"))
    present = [column for column in columns if (overall["metric"] == column[1]).any()]
    rows = []
    for depth, stage in enumerate(table.attrs["stages"], start=1):
        row = [str(depth), stage]
        for _, metric, split, write in present:
            cell = overall[(overall["stage"] == stage) & (overall["metric"] == metric) & (overall["split"] == split)]
            row.append("-" if cell.empty or _missing(cell["value"].iloc[0]) else write(cell["value"].iloc[0]))
        rows.append(row)
    say_table(["depth", "stage", *(column[0] for column in present)], rows)
    for failure in table.attrs["failures"]:
        where = f" at stage {plain(failure['stage'])}" if failure["stage"] else ""
        say(f"probe {plain(failure['probe'])} failed{where}: {plain(failure['error'], LONGEST_REASON)}")


def print_comparison(frame: Any, as_json: bool) -> None:
    """One row a run."""
    if as_json:
        say_json(json.loads(frame.to_json(orient="records")))
        return
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
    if not any(note.startswith("uneven classes") for notes in frame["notes"] for note in notes):
        columns = {name: write for name, write in columns.items() if "balanced" not in name}  # it is the accuracy then
    say_table(list(columns), [[write(row[name]) for name, write in columns.items()] for _, row in frame.iterrows()])


def print_similarity(table: Any, as_json: bool) -> None:
    """Rows: stages of the first run; columns: those of the second, by number, named below."""
    if as_json:
        say_json(table.to_dict("records"))
        return
    grid = table.pivot(index=["depth", "stage"], columns="other_depth", values="cka_linear")
    rows = [[str(depth), stage, *(f"{value:.3f}" for value in row)] for (depth, stage), row in grid.iterrows()]
    say_table(["depth", "stage", *map(str, grid.columns)], rows)
    others = table.drop_duplicates("other_depth")
    pairs = zip(others["other_depth"], others["other_stage"], strict=True)
    named = ", ".join(f"{depth} {plain(stage, LONGEST_CELL)}" for depth, stage in pairs)
    say(f"linear CKA on {table.attrs['n']:,} val images; columns: {named}")


def _third_party(table: Any) -> list[str]:
    """Probes of the table that are not built in."""
    own = set(table.attrs.get("built_in", []))
    return [probe for probe in table["probe"].unique() if probe not in own]


def print_advice(advice: Any) -> None:
    """Verdict, stage, reason, expected accuracy, what the whole network reaches, the share of the cost and notes."""
    where = "none" if advice.depth is None else f"{plain(advice.stage)}, depth {advice.depth} of {advice.full_depth}"
    if advice.depth_interval and advice.depth_interval[0] != advice.depth_interval[1]:
        where += f" (90 % interval {advice.depth_interval[0]} to {advice.depth_interval[1]})"
    say(f"recommendation: {plain(advice.verdict)} - {where}")
    say(f"  {plain(advice.reason, LONGEST_REASON)}")
    if advice.expected_accuracy is not None:
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


def _own_accuracies(advice: Any) -> list[str]:
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


def print_prospects(advice: Any) -> None:
    """One row a depth: what is expected of it and what it costs."""
    from lwexplain.views.pareto import pareto_table

    if advice.prospects:
        say()
        table = pareto_table(advice.prospects)
        say_table(table.header, table.rows)


def _share(value: Any) -> str:
    return "-" if _missing(value) else f"{value:.4f}"


def _ratio(value: Any) -> str:
    return "-" if _missing(value) else f"{100 * value:.1f} %"


def _missing(value: Any) -> bool:
    return value is None or value != value
