"""The tables of the README and of the documentation, made from the result files.

    python tests/benchmarks/readme_tables.py            # write them, between their markers

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.
"""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwexplain.text_table import TextTable
from lwexplain.views.study_table import accuracy, mebibytes, number

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
RESULTS = Path(__file__).parent / "results"


def strategies(result: dict[str, Any]) -> TextTable:
    """A line a strategy: accuracy, gap to bp of the same model, parameters, seconds, activation bytes."""
    rows = result["rows"]
    reference = {row["model"]: row["test_accuracy"]["mean"] for row in rows if row["name"] in ("bp", "slim_bp")}
    lines = []
    for row in rows:
        gap = 100 * (row["test_accuracy"]["mean"] - reference[row["model"]])
        is_control = row["name"] == "random_labels"  # nothing to be learned, hence nothing to be compared
        lines.append(
            [
                row["title"],
                accuracy(row["test_accuracy"]),
                "" if is_control else f"{gap:+.2f}",
                f"{row['parameters']:,.0f}",
                number(row["seconds"]),
                mebibytes_with_point(row["activation_bytes"]),
            ]
        )
    header = ["strategy", "test accuracy", "to bp of the same network", "parameters", "seconds", "activation MiB"]
    return TextTable(header, lines)


def activation_bytes(result: dict[str, Any]) -> TextTable:
    """A line a strategy: activation memory of a step and its share of that of bp."""
    lines = [
        [
            name,
            f"{found['activation_bytes'] / 2**20:,.0f}",
            f"{found['share_of_bp']:.2f}",
            f"{found['step_flops'] / 1e9:.2f}",
        ]
        for name, found in result["strategies"].items()
    ]
    return TextTable(["strategy", "activation MiB", "share of bp", "GFLOPs an image and step"], lines)


def prefix_cache(result: dict[str, Any]) -> TextTable:
    """A line a way of training: seconds of the whole training and the ratio to bp."""
    lines = [
        [
            name,
            f"{result['median_seconds'][name]:,.0f}",
            f"{result['median_ratio'][name]:.2f}",
            f"{100 * sum(run['val_accuracy'] for run in runs) / len(runs):.2f}",
        ]
        for name, runs in result["runs"].items()
    ]
    return TextTable(["", "seconds", "to bp", "val accuracy"], lines)


def analysis_speed(result: dict[str, Any]) -> TextTable:
    """A line a part of the work: median seconds of the script a person writes and of lwexplain."""

    def seconds(name: str, part: str) -> float:
        return statistics.median(run[part] for run in result["seconds"][name])

    lines = [
        [part, f"{seconds('own_script', part):,.1f}", f"{seconds('lwexplain', part):,.1f}"]
        for part in result["seconds"]["lwexplain"][0]
    ]
    return TextTable(["", "seconds, own script", "seconds, lwexplain"], lines)


def analysis_memory(result: dict[str, Any]) -> TextTable:
    """A line an analysis: its samples, the peak memory of its process, the ratio to that of few samples."""
    few = result["few"]["peak_bytes"]
    titles = {"few": "", "many": "", "limited": f", limit {result['limited']['limit']}" if "limited" in result else ""}
    lines = [
        [
            f"{result[name]['samples'][result['large_split']]:,}{title}",
            f"{result[name]['peak_bytes'] / 10**6:,.0f}",
            f"{result[name]['peak_bytes'] / few:.2f}",
            f"{result[name]['wall_seconds']:,.0f}",
        ]
        for name, title in titles.items()
        if name in result
    ]
    return TextTable(["samples", "peak MB", "ratio", "seconds"], lines)


def depth_rules(result: dict[str, Any]) -> TextTable:
    """A line a rule: regret, how often it is near, too deep or too shallow, and the parameters it keeps."""
    lines = [
        [
            row["rule"],
            f"{100 * row['mean_regret']:.2f}",
            f"{100 * row['worst_regret']:.2f}",
            f"{100 * row['within_one']:.0f} %",
            f"{100 * row['too_deep']:.0f} %",
            f"{100 * row['too_shallow']:.0f} %",
            f"{row['parameters_of_oracle']:.2f}",
        ]
        for row in result["rules"]
    ]
    header = [
        "rule",
        "mean regret",
        "worst",
        "within one stage",
        "too deep",
        "too shallow",
        "parameters to the oracle's",
    ]
    return TextTable(header, lines)


def depth_tasks(result: dict[str, Any]) -> TextTable:
    """A line a task: the oracle's depth, what was recommended from each seed, regret and verdicts."""
    lines = []
    for row in result["tasks"]:
        no_answer = row["control"] == "random_labels"
        verdicts = sorted(set(row["verdicts"]), key=row["verdicts"].index)
        lines.append(
            [
                f"{row['title']}, {row['strategy']}",
                str(row["stages"]),
                "-" if no_answer else str(row["oracle_depth"]),
                "-" if no_answer else ", ".join(map(str, row["recommended_depths"])),
                "-" if no_answer else f"{100 * row['regret']:+.2f}",
                ", ".join(verdicts),
            ]
        )
    return TextTable(["task", "stages", "oracle", "recommended", "regret", "verdicts"], lines)


def depth_promises(result: dict[str, Any]) -> TextTable:
    """How often intervals and tolerances held what they promise."""
    covered = result["coverage"]
    lines = [
        [
            f"the 90 % interval of accuracy holds a network retrained with another seed ({covered['of']:,} of them)",
            f"{100 * covered['inside'] / covered['of']:.0f} %",
        ],
        ["the 90 % interval of depths holds the oracle's", f"{100 * result['oracle_in_depth_interval']:.0f} %"],
    ]
    for row in result["promises"]:
        lines.append(
            [
                f"tolerance {100 * row['tolerance']:g}: the recommended depth is within it "
                f"({100 * row['parameters_of_full']:.0f} % of the parameters are kept)",
                f"{100 * row['kept']:.0f} %",
            ]
        )
    return TextTable(["promise", "kept"], lines)


def depth_stopping(result: dict[str, Any]) -> TextTable:
    """A line a layer-wise task: after which stage training would have stopped, seconds saved, accuracy lost."""
    stopping = result["stopping"]
    lines = [
        [
            row["title"],
            ", ".join(map(str, row["stopped_after"])) + f" of {row['stages']}",
            f"{100 * row['saved']:.0f} %",
            f"{100 * row['lost']:.2f}",
        ]
        for row in stopping["tasks"]
    ]
    lines.append(["mean", "", f"{100 * stopping['saved']:.0f} %", f"{100 * stopping['lost']:.2f}"])
    return TextTable(["task", "stopped after stage", "time saved", "test points lost"], lines)


def depth_controls(result: dict[str, Any]) -> TextTable:
    """A line a control: how many seeds were answered right."""
    lines = [[f"{row['control']}, {row['strategy']}", f"{row['right']} of {row['seeds']}"] for row in result["counts"]]
    return TextTable(["control", "right"], lines)


def interval_coverage(result: dict[str, Any]) -> TextTable:
    """A line a measure with an interval: how often that holds its target, at each size in each population."""
    cells = result["cells"]
    header = ["measure", *(f"{cell['size']:,}: {cell['population']}" for cell in cells)]
    lines = []
    for measure in cells[0]["measures"]:
        found = [cell["measures"][measure] for cell in cells]
        if any(each["given"] for each in found):
            shares = [f"{100 * each['covered']:.0f} %" if each["given"] else "none" for each in found]
            lines.append([measure, *shares])
    return TextTable(header, lines)


def networks_of(library: str) -> Callable[[dict[str, Any]], TextTable]:
    """A line a network of a library: its family, image size, stages, how it is cut, export, seconds and what failed."""

    def table(result: dict[str, Any]) -> TextTable:
        lines = [
            [
                f"`{row['name']}`",
                row["family"],
                str(row["image"]),
                str(len(row.get("stages", []))),
                f"`{row['stages'][0]}` ... `{row['stages'][-1]}`" if row.get("stages") else "",
                row.get("way", ""),
                row.get("export", ""),
                f"{row['seconds']:.0f}" if "seconds" in row else "",
                (row["failure"] or "").replace("|", "/"),
            ]
            for row in result["networks"]
            if row["library"] == library
        ]
        header = ["network", "family", "pixels", "stages", "first and last", "cut by", "export", "seconds", "failure"]
        return TextTable(header, lines)

    return table


def mebibytes_with_point(found: dict[str, Any]) -> str:
    """Mean of bytes in MiB, with one decimal."""
    return f"{found['mean'] / 2**20:,.1f}" if found["mean"] < 100 * 2**20 else mebibytes(found)


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], TextTable]]] = {
    "strategies": ("strategies", strategies),
    "prefix_cache": ("prefix_cache", prefix_cache),
    "activation_bytes": ("activation_bytes", activation_bytes),
    "interval_coverage": ("interval_coverage", interval_coverage),
    "analysis_speed": ("analysis_speed", analysis_speed),
    "analysis_memory": ("analysis_memory", analysis_memory),
    "depth_rules": ("depth_scores", depth_rules),
    "depth_tasks": ("depth_scores", depth_tasks),
    "depth_promises": ("depth_scores", depth_promises),
    "depth_stopping": ("depth_scores", depth_stopping),
    "depth_controls": ("depth_controls", depth_controls),
    "networks_of_torchvision": ("zoo_survey", networks_of("torchvision")),
    "networks_of_timm": ("zoo_survey", networks_of("timm")),
    "networks_of_transformers": ("zoo_survey", networks_of("transformers")),
}
"""Each table by name: its result file, and what makes it."""


MARKED = re.compile(r"^<!-- table: (\w+) -->\n.*?^<!-- end of table -->$", re.DOTALL | re.MULTILINE)


def with_tables(text: str) -> str:
    """The text with every marked table made anew."""

    def make(match: re.Match[str]) -> str:
        file, table = TABLES[match[1]]
        result = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
        return f"<!-- table: {match[1]} -->\n{table(result).markdown(escaped=False)}<!-- end of table -->"

    return MARKED.sub(make, text)


if __name__ == "__main__":
    for path in FILES:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
