"""The rows of a study as tables of text, for the terminal, a markdown file and the README."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lwexplain.text import escape_markdown


@dataclass(frozen=True)
class TextTable:
    """A header and rows of text."""

    header: list[str]
    rows: list[list[str]]

    def markdown(self, *, escaped: bool = True) -> str:
        """The table in markdown; all columns but the first are aligned to the right.

        ``escaped`` False is for text of our own, which is read as it stands, too.
        """
        rule = ["---", *["---:"] * (len(self.header) - 1)]
        written = escape_markdown if escaped else str
        header, *rows = [[written(cell) for cell in cells] for cells in [self.header, *self.rows]]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows]) + "\n"


def summary_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """A line an experiment: accuracy, parameters, memory, time and the chosen depth of each seed."""
    header = [
        "", "test accuracy", "parameters", "seconds", "activation MiB", "peak MiB",
        "chosen depth", "expected accuracy there", "parameters there",
    ]  # fmt: skip
    lines = []
    for row in rows:
        advice = row["advice"]
        chosen = [found for found in advice if found["depth"] is not None]
        share = [found["params_ratio"] for found in chosen if found["params_ratio"] is not None]
        lines.append(
            [
                row["title"],
                accuracy(row["test_accuracy"]),
                f"{row['parameters']:,.0f}",
                number(row["seconds"]),
                mebibytes(row["activation_bytes"]),
                mebibytes(row["peak_memory_bytes"]),
                ", ".join("-" if found["depth"] is None else str(found["depth"]) for found in advice)
                + f" of {len(row['by_depth'])}",
                accuracy(_mean_of([found["expected_accuracy"] for found in chosen])),
                "-" if not share else f"{100 * sum(share) / len(share):.0f} %",
            ]
        )
    return TextTable(header, lines)


def depth_table(row: Mapping[str, Any]) -> TextTable:
    """A line a depth of one experiment: accuracy on test by its own head and by a linear probe, separability index on
    val, and the parameters of the network cut there."""
    header = ["depth", "stage", "own head", "linear probe", "separability index", "parameters"]
    lines = [
        [
            str(stage["depth"]),
            stage["stage"],
            accuracy(stage["head"]),
            accuracy(stage["linear_probe"]),
            accuracy(stage["separability_index"]),
            "-" if stage["parameters"] is None else f"{stage['parameters']:,.0f}",
        ]
        for stage in row["by_depth"]
    ]
    return TextTable(header, lines)


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


def _mean_of(values: Sequence[float]) -> dict[str, Any] | None:
    return {"mean": sum(values) / len(values), "std": None} if values else None
