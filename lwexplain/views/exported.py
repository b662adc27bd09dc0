"""What an export says to a person: the shorter network beside the full one, its early exits, and what else to know."""

from typing import TYPE_CHECKING

from lwexplain.terminal import say, say_table
from lwexplain.text_table import TextTable

if TYPE_CHECKING:
    from lwexplain.exporting.export import Exported

HEADS = {"local": "its own head", "fresh": "a fresh linear head"}


def print_export(exported: "Exported") -> None:
    """Both networks, the early exits where there are any, and what else there is to say."""
    say_table(networks_table(exported))
    if exported.early_exit is not None:
        say()
        say_table(exits_table(exported))
    for line in remarks(exported):
        say(line)


def networks_table(exported: "Exported") -> TextTable:
    """Accuracy on test, parameters, FLOPs and latencies of the shorter and of the full network.

    The last column is the difference of accuracies in points, and the shorter network's share of the full one's cost.
    """
    short, full = exported.short, exported.full
    accuracies = short.test_accuracy.value, full.test_accuracy.value
    rows = [["accuracy on test", *(f"{value:.4f}" for value in accuracies), _points(*accuracies)]]
    for name, less, more in (
        ("parameters", short.parameters, full.parameters),
        ("FLOPs an image", short.flops, full.flops),
    ):
        rows.append([name, f"{less:,}", f"{more:,}", _share(less, more)])
    for name, one, other in (
        ("latency, median", short.latency_median, full.latency_median),
        ("latency, 95th percentile", short.latency_p95, full.latency_p95),
    ):
        rows.append([name, milliseconds(one), milliseconds(other), f"{float(f'{100 * one / other:.2g}'):g} %"])
    return TextTable(["", f"shorter ({short.stage})", f"full ({full.stage})", "shorter / full"], rows)


def exits_table(exported: "Exported") -> TextTable:
    """One row for each early exit; none where no early exit was asked for."""
    return TextTable.of(
        exported.early_exit.exits if exported.early_exit else (),
        {
            "exit": lambda exit_: exit_.stage,
            "head": lambda exit_: exit_.head,
            "threshold": lambda exit_: f"{exit_.threshold:.4f}",
            "leave here (test)": lambda exit_: f"{exit_.test_share:.1%}",
            "FLOPs up to here": lambda exit_: f"{exit_.flops:,}",
        },
    )


def remarks(exported: "Exported") -> list[str]:
    """What else there is to say, in a line each: the depth, the parity of the file, the file."""
    chosen = f" ({exported.head_note}, chosen on val)" if exported.head_note else ""
    differences = ", ".join(f"{value:.1e} at batch {size}" for size, value in exported.parity.items())
    lines = [
        f"depth {exported.depth} of {exported.full_depth} with {HEADS[exported.head]}{chosen}; test accuracy of "
        f"{exported.short.test_accuracy.n:,} images with the file itself, latency at batch 1 in PyTorch on "
        f"{exported.device}{', one thread' if exported.device == 'cpu' else ''}",
        f"parity of file and network: largest difference of a logit {differences}",
        f"file: {exported.path} ({exported.format}, {exported.bytes:,} bytes)",
    ]
    if exported.expected_accuracy is not None and exported.expected_accuracy_interval is not None:
        low, high = exported.expected_accuracy_interval
        lines.insert(0, f"recommended: {exported.reason}")
        lines[1] += f"; the recommendation expected {exported.expected_accuracy:.4f} ({low:.4f} to {high:.4f})"
    early = exported.early_exit
    if early is not None:
        lines.append(
            f"early exit: accuracy on test {early.test_accuracy.value:.4f}, mean FLOPs an image "
            f"{early.test_mean_flops:,.0f} ({_share(early.test_mean_flops, early.flops_of_chosen_depth)} of those "
            f"without); files in the order of {early.index_file}"
        )
    return lines


def milliseconds(seconds: float) -> str:
    """A latency as text, to the two digits that another measurement would give again: ``3.7 ms``."""
    value = float(f"{1000 * seconds:.2g}")
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2g} ms"


def _points(shorter: float, full: float) -> str:
    return f"{100 * (shorter - full):+.2f} points"


def _share(less: float, more: float) -> str:
    return f"{100 * less / more:.1f} %" if more else "-"
