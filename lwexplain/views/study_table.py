"""The rows of a study as tables of text, for the terminal, a Markdown file and the README."""

from collections.abc import Mapping, Sequence
from typing import Any

from lwexplain.terminal import say, say_table
from lwexplain.text_table import TextTable


def print_study(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table of all experiments, and below its title that of each one."""
    for title, table in [("", summary_table(rows)), *((row["title"], experiment_table(row)) for row in rows)]:
        say(title)
        say_table(table)


def summary_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """A row for each experiment: accuracy, parameters, memory, time and the chosen depth of each seed."""
    return TextTable.of(
        rows,
        {
            "": lambda row: row["title"],
            "test accuracy": lambda row: accuracy(row["test_accuracy"]),
            "parameters": lambda row: f"{row['parameters']:,.0f}",
            "seconds": lambda row: number(row["seconds"]),
            "activation MiB": lambda row: mebibytes(row["activation_bytes"]),
            "peak MiB": lambda row: mebibytes(row["peak_memory_bytes"]),
            "chosen depth": _chosen_depths,
            "expected accuracy there": lambda row: accuracy(_mean_of(_of_chosen(row, "expected_accuracy"))),
            "parameters there": _share_of_parameters,
        },
    )


def experiment_table(row: Mapping[str, Any]) -> TextTable:
    """A row for each depth of one experiment: accuracy on test by its own head and by a linear probe, separability
    index on val, and the parameters of the network cut there."""
    return TextTable.of(
        row["by_depth"],
        {
            "depth": lambda stage: str(stage["depth"]),
            "stage": lambda stage: stage["stage"],
            "own head": lambda stage: accuracy(stage["head"]),
            "linear probe": lambda stage: accuracy(stage["linear_probe"]),
            "separability index": lambda stage: accuracy(stage["separability_index"]),
            "parameters": lambda stage: "-" if stage["parameters"] is None else f"{stage['parameters']:,.0f}",
        },
    )


def accuracy(found: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation in percent; ``-`` where there is none."""
    if found is None:
        return "-"
    mean = f"{100 * found['mean']:.2f}"
    return mean if found["std"] is None else f"{mean} ± {100 * found['std']:.2f}"


def number(found: Mapping[str, Any]) -> str:
    """Mean and standard deviation as whole numbers."""
    mean = f"{found['mean']:,.0f}"
    return mean if found["std"] is None else f"{mean} ± {found['std']:,.0f}"


def mebibytes(found: Mapping[str, Any]) -> str:
    """Mean of bytes in MiB."""
    return f"{found['mean'] / 2**20:,.0f}"


def _chosen_depths(row: Mapping[str, Any]) -> str:
    """The recommended depth of every seed: ``5, 6, - of 9``."""
    depths = ("-" if advice["depth"] is None else str(advice["depth"]) for advice in row["advice"])
    return f"{', '.join(depths)} of {len(row['by_depth'])}"


def _share_of_parameters(row: Mapping[str, Any]) -> str:
    shares = _of_chosen(row, "params_ratio")
    return "-" if not shares else f"{100 * sum(shares) / len(shares):.0f} %"


def _of_chosen(row: Mapping[str, Any], field: str) -> list[float]:
    """What the recommendations that name a depth say in a field, as far as they say it."""
    found = [advice[field] for advice in row["advice"] if advice["depth"] is not None]
    return [value for value in found if value is not None]


def _mean_of(values: Sequence[float]) -> dict[str, Any] | None:
    return {"mean": sum(values) / len(values), "std": None} if values else None
