"""An export in a small table for a person: the shorter network beside the full one."""

from lwexplain.exporting.export import Exported
from lwexplain.models.latency import milliseconds


def table_of(exported: Exported) -> tuple[list[str], list[list[str]]]:
    """Header and rows: accuracy on test, parameters, FLOPs and latencies of the shorter and of the full network.

    The last column is the difference of accuracies in points, and the shorter network's share of the full one's cost.
    """
    short, full = exported.short, exported.full
    header = ["", f"shorter ({short.stage})", f"full ({full.stage})", "shorter / full"]
    points = 100 * (short.test_accuracy.value - full.test_accuracy.value)
    rows = [
        [
            "accuracy on test",
            f"{short.test_accuracy.value:.4f}",
            f"{full.test_accuracy.value:.4f}",
            f"{points:+.2f} points",
        ]
    ]
    for name, write, less, more in (
        ("parameters", "{:,}", short.parameters, full.parameters),
        ("FLOPs an image", "{:,}", short.flops, full.flops),
    ):
        rows.append([name, write.format(less), write.format(more), _share(less, more)])
    for name, one, other in (
        ("latency, median", short.latency_median, full.latency_median),
        ("latency, 95th percentile", short.latency_p95, full.latency_p95),
    ):
        rows.append([name, milliseconds(one), milliseconds(other), f"{float(f'{100 * one / other:.2g}'):g} %"])
    return header, rows


def lines_of(exported: Exported) -> list[str]:
    """What else there is to say, a line each: the depth, the parity of the file, the file."""
    head = {"local": "its own head", "fresh": "a fresh linear head"}[exported.head]
    chosen = f" ({exported.head_note}, chosen on val)" if exported.head_note else ""
    differences = ", ".join(f"{value:.1e} at batch {size}" for size, value in exported.parity.items())
    lines = [
        f"depth {exported.depth} of {exported.full_depth} with {head}{chosen}; test accuracy of "
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


def exits_table_of(exported: Exported) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the early exits, one an exit; no rows where none were asked for."""
    header = ["exit", "head", "threshold", "leave here (test)", "FLOPs up to here"]
    exits = exported.early_exit.exits if exported.early_exit else ()
    rows = [
        [exit_.stage, exit_.head, f"{exit_.threshold:.4f}", f"{exit_.test_share:.1%}", f"{exit_.flops:,}"]
        for exit_ in exits
    ]
    return header, rows


def _share(less: float, more: float) -> str:
    return f"{100 * less / more:.1f} %" if more else "-"
