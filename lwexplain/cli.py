"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lwexplain.errors import ConfigError, LwexplainError, TrainingInterrupted

if TYPE_CHECKING:
    from lwexplain.run import Run

app = typer.Typer(
    name="lwexplain",
    help="Train image classifiers layer-wise or by back-propagation, look inside every stage, and learn where to stop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory made by lwexplain train.")]
Tolerance = Annotated[float, typer.Option(help="Accuracy one is willing to lose, in [0, 1): 0.005 is half a point.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Objective = Annotated[
    str, typer.Option(help="What is best among what is good enough: params, flops, latency, memory; or accuracy.")
]
MaxParams = Annotated[float | None, typer.Option(help="Most parameters, e.g. 1e6.")]
MaxFlops = Annotated[float | None, typer.Option(help="Most FLOPs an image.")]
MaxLatency = Annotated[float | None, typer.Option(help="Longest median latency of one image, in milliseconds.")]
MaxMemory = Annotated[str | None, typer.Option(help="Most memory for one image, e.g. 4MB.")]


class Kind(StrEnum):
    """What ``lwexplain list`` can list."""

    datasets = "datasets"
    models = "models"
    strategies = "strategies"
    losses = "losses"
    heads = "heads"
    probes = "probes"


class Reproducible(StrEnum):
    """What ``lwexplain reproduce`` can reproduce."""

    thesis = "thesis"


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
) -> None:
    """Read by ``main``, which accepts --verbose anywhere on the line."""


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the two runs.")] = Path("runs/demo")) -> None:
    """Train on the embedded digits by bp and greedy, analyze, recommend, and write the reports."""
    from lwexplain.demo import run_demo

    reports = run_demo(out, say=lambda text: typer.echo(f"\n{text}"), show=_print_run)
    typer.echo("")
    for path in reports:
        typer.echo(f"report: {path}")
    typer.echo(f"explore: streamlit run apps/explorer.py -- {out}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file such as configs/digits_greedy.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. training.epochs=3.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Run directory (default: runs/<name of the config>).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train a network as configured, stage by stage or by back-propagation."""
    from lwexplain import api
    from lwexplain.config import parse_overrides

    run = api.train(config, parse_overrides(overrides or []), run_dir=run_dir, resume=resume)
    if _is_first_process():
        _print_training(run)
        typer.echo(f"trained: {run.path}\nnext: lwexplain analyze {shlex.quote(str(run.path))}")


@app.command()
def analyze(
    run_dir: RunDir,
    probes: Annotated[str | None, typer.Option(help="Comma-separated probes (default: all built-in ones).")] = None,
    max_samples: Annotated[int, typer.Option(min=1, help="Largest number of images used of each split.")] = 10_000,
    pooling: Annotated[str, typer.Option(help="mean, max, flatten or pyramid.")] = "mean",
    precision: Annotated[str, typer.Option(help="Of the forward pass: auto, float32 or bfloat16.")] = "auto",
    mem_limit: Annotated[str | None, typer.Option(help="Most memory the process may take, e.g. 2GB.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps (default: as trained).")] = None,
) -> None:
    """Capture every stage and measure the probes; what was measured before is not measured again."""
    from lwexplain import api
    from lwexplain.run import Run

    names = [name.strip() for name in probes.split(",") if name.strip()] if probes is not None else None
    run = Run.open(run_dir)
    api.analyze(
        run,
        names,
        max_samples=max_samples,
        pooling=pooling,
        precision=precision,
        mem_limit=mem_limit,
        device=device,
    )
    if not _is_first_process():
        return
    _print_table(run)
    typer.echo(f"analyzed: {run.metrics_path}\nnext: lwexplain recommend {shlex.quote(str(run_dir))}")


@app.command()
def recommend(
    run_dir: RunDir,
    tolerance: Tolerance = 0.005,
    objective: Objective = "params",
    max_params: MaxParams = None,
    max_flops: MaxFlops = None,
    max_latency: MaxLatency = None,
    max_memory: MaxMemory = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Where to cut the trained network as it stands, not which depth to train.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recommend the stage to stop at, with the reason, what is to be expected of every depth, and what it costs."""
    from lwexplain import api

    budgets = _budgets(max_params, max_flops, max_latency, max_memory)
    advice = api.recommend(run_dir, tolerance, objective=objective, budgets=budgets, retrain=not as_is)
    if as_json:
        typer.echo(json.dumps(advice.to_dict(), indent=2))
        return
    _print_advice(advice)
    _print_prospects(advice)
    if not as_is and advice.source != "head" and advice.verdict == "stop_here":
        config = shlex.quote(str(run_dir / "config.yaml"))
        typer.echo(f"next: lwexplain train {config} model.depth={advice.depth} --run-dir NEW_DIR")


@app.command()
def export(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option(help="File to write: NAME.pt2 or NAME.onnx.")],
    depth: Annotated[str, typer.Option(help="auto, a stage or a number of stages.")] = "auto",
    file_format: Annotated[str | None, typer.Option("--format", help="pt2 or onnx (default: by the suffix).")] = None,
    head: Annotated[
        str, typer.Option(help="local (as trained), fresh (fitted anew), auto (local where there is one).")
    ] = "auto",
    early_exit: Annotated[
        bool, typer.Option("--early-exit", help="Also write segments between which an image may leave early.")
    ] = False,
    tolerance: Tolerance = 0.005,
    objective: Objective = "params",
    max_params: MaxParams = None,
    max_flops: MaxFlops = None,
    max_latency: MaxLatency = None,
    max_memory: MaxMemory = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps (default: as trained).")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the shorter network to a file that runs without lwexplain, check it, and measure it beside the full one."""
    from lwexplain import api
    from lwexplain.exporting.summary import exits_table_of, lines_of, table_of

    exported = api.export(
        run_dir,
        out,
        depth=depth,
        format=file_format,
        head=head,
        early_exit=early_exit,
        tolerance=tolerance,
        objective=objective,
        budgets=_budgets(max_params, max_flops, max_latency, max_memory),
        device=device,
    )
    if as_json:
        typer.echo(json.dumps(exported.to_dict(), indent=2))
        return
    _print_grid(*table_of(exported))
    header, rows = exits_table_of(exported)
    if rows:
        typer.echo("")
        _print_grid(header, rows)
    for line in lines_of(exported):
        typer.echo(line)
    if exported.head == "fresh":
        run = shlex.quote(str(run_dir))
        typer.echo(f"a network trained anew may need fewer stages for the same accuracy: lwexplain recommend {run}")


@app.command()
def compare(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Two or more analyzed runs.")],
    tolerance: Tolerance = 0.005,
    similarity: Annotated[
        bool, typer.Option("--similarity", help="Of two runs: how alike their stages are (linear CKA), instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put the recommendations of several runs side by side."""
    from lwexplain import api

    if similarity:
        if len(run_dirs) != 2:
            raise ConfigError(f"--similarity compares two runs; {len(run_dirs)} were given")
        _print_similarity(api.similarity(*run_dirs), as_json)
        return
    frame = api.compare(run_dirs, tolerance)
    if as_json:
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records")), indent=2))
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
        "params_ratio": _ratio,
        "training_seconds": lambda value: "-" if _missing(value) else f"{value:.0f}",
    }
    _print_grid(list(columns), [[write(row[name]) for name, write in columns.items()] for _, row in frame.iterrows()])


@app.command()
def report(
    run_dir: RunDir,
    out: Annotated[Path | None, typer.Option(help="File to write (default: report.html in the run).")] = None,
) -> None:
    """Write the self-contained HTML report of an analyzed run."""
    from lwexplain import api

    typer.echo(f"report: {api.report(run_dir, out)}")


@app.command()
def reproduce(
    what: Annotated[Reproducible, typer.Argument(help="What to reproduce.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. training.epochs=3.")
    ] = None,
    data: Annotated[str, typer.Option(help="A data set of `lwexplain list datasets`, or a folder.")] = "fashion_mnist",
    width: Annotated[
        int | None, typer.Option(min=1, help="Channels of the first stage (default: 64, as published).")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each network.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder for runs and tables (default: runs/thesis_DATA).")] = None,
) -> None:
    """Train BP + SGD, layer-wise and slim layer-wise ResNet-18 and put them side by side; goes on where it stopped."""
    from lwexplain.config import parse_overrides
    from lwexplain.reproduce import reproduce_thesis
    from lwexplain.views.study_table import depth_table, summary_table

    folder = out or Path("runs") / f"{what.value}_{Path(data).name}"
    settings = parse_overrides(overrides or [])
    rows = reproduce_thesis(data, width, seeds, folder, settings, say=lambda text: typer.echo(text, err=True))
    for title, table in [("", summary_table(rows)), *((row["title"], depth_table(row)) for row in rows)]:
        typer.echo(title)
        _print_grid(table.header, table.rows)
    typer.echo("")
    typer.echo(f"tables: {folder / 'table.md'}, {folder / 'table.json'}")


@app.command("list")
def list_names(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what can be named in a configuration or on the command line."""
    registry = _registry(kind)
    width = max(len(name) for name in registry.names())
    for name in registry.names():
        typer.echo(f"{name:<{width}}  {registry.summary(name)}")


def _registry(kind: Kind) -> Any:
    match kind:
        case Kind.datasets:
            from lwexplain.data.dataset import DATASETS as registry
        case Kind.models:
            from lwexplain.models.build import MODELS as registry
        case Kind.strategies:
            from lwexplain.training.strategies.base import STRATEGIES as registry
        case Kind.losses:
            from lwexplain.training.losses.base import LOSSES as registry
        case Kind.heads:
            from lwexplain.models.heads.base import HEADS as registry
        case Kind.probes:
            from lwexplain.probes.base import PROBES as registry
    return registry


# ---------------------------------------------------------------------- printing


def _print_run(run: "Run") -> None:
    from lwexplain import api

    _print_table(run)
    _print_advice(api.recommend(run))


def _print_training(run: "Run") -> None:
    last = {event["depth"]: event for event in run.read_events() if event.get("event") == "epoch"}
    rows = [
        [str(depth), event["stage"], f"{event['train_loss']:.4f}", _share(event["val_accuracy"]), f"{event['lr']:.2g}"]
        for depth, event in sorted(last.items())
    ]
    _print_grid(["depth", "stage", "train loss", "val accuracy", "last lr"], rows)
    if run.manifest.get("stopped"):
        typer.echo(f"stopped early: {run.manifest['stopped']}")
    costs = run.manifest["costs"]
    typer.echo(
        f"{run.manifest['seconds']:.0f} s, {costs['images_per_second']:.0f} images/s in the last epoch; activations "
        f"{costs['activation_bytes'] / 2**20:.1f} MiB a step, peak memory {costs['peak_memory_bytes'] / 2**20:.0f} MiB"
    )


def _print_table(run: "Run") -> None:
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
    known = {column[1] for column in columns} | {"flops", "latency_seconds"}
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
    _print_grid(["depth", "stage", *(column[0] for column in present)], rows)
    for failure in table.attrs["failures"]:
        where = f" at stage {failure['stage']}" if failure["stage"] else ""
        typer.echo(f"probe {failure['probe']} failed{where}: {failure['error']}")


def _print_similarity(table: Any, as_json: bool) -> None:
    """Rows: stages of the first run; columns: those of the second, by number, named below."""
    if as_json:
        typer.echo(json.dumps(table.to_dict("records"), indent=2))
        return
    grid = table.pivot(index=["depth", "stage"], columns="other_depth", values="cka_linear")
    rows = [[str(depth), stage, *(f"{value:.3f}" for value in row)] for (depth, stage), row in grid.iterrows()]
    _print_grid(["depth", "stage", *map(str, grid.columns)], rows)
    others = table.drop_duplicates("other_depth")
    pairs = zip(others["other_depth"], others["other_stage"], strict=True)
    named = ", ".join(f"{depth} {stage}" for depth, stage in pairs)
    typer.echo(f"linear CKA on {table.attrs['n']:,} val images; columns: {named}")


def _third_party(table: Any) -> list[str]:
    """Probes of the table that are not built in."""
    own = set(table.attrs.get("built_in", []))
    return [probe for probe in table["probe"].unique() if probe not in own]


def _print_advice(advice: Any) -> None:
    where = "none" if advice.depth is None else f"{advice.stage}, depth {advice.depth} of {advice.full_depth}"
    if advice.depth_interval and advice.depth_interval[0] != advice.depth_interval[1]:
        where += f" (90 % interval {advice.depth_interval[0]} to {advice.depth_interval[1]})"
    typer.echo(f"recommendation: {advice.verdict} - {where}")
    typer.echo(f"  {advice.reason}")
    if advice.expected_accuracy is not None:
        low, high = advice.expected_accuracy_interval
        full = "" if advice.full_accuracy is None else f"; full depth {_share(advice.full_accuracy)}"
        interval = f"90 % interval {_share(low)} to {_share(high)}"
        typer.echo(f"  expected test accuracy {_share(advice.expected_accuracy)} ({interval}){full}")
    if advice.params_ratio is not None:
        typer.echo(
            f"  of the full network's cost: parameters {_ratio(advice.params_ratio)}, "
            f"FLOPs {_ratio(advice.flops_ratio)}, latency {_ratio(advice.latency_ratio)}, "
            f"memory {_ratio(advice.memory_ratio)}"
        )


def _print_prospects(advice: Any) -> None:
    from lwexplain.views.pareto import pareto_table

    if advice.prospects:
        typer.echo("")
        table = pareto_table(advice.prospects)
        _print_grid(table.header, table.rows)


def _budgets(params: float | None, flops: float | None, latency: float | None, memory: str | None) -> dict[str, float]:
    """Budgets in the units of the Python interface: parameters, FLOPs, seconds, bytes."""
    from lwexplain.memory import parse_size

    asked = {
        "params": params,
        "flops": flops,
        "latency": None if latency is None else latency / 1000,
        "memory": None if memory is None else float(parse_size(memory)),
    }
    return {name: value for name, value in asked.items() if value is not None}


def _print_grid(header: list[str], rows: list[list[str]]) -> None:
    """A plain table: text to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    left = [not any(row[column][:1].isdigit() for row in rows) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(row, widths, left, strict=True)
        ]
        typer.echo("  ".join(cells).rstrip())


def _share(value: Any) -> str:
    return "-" if _missing(value) else f"{value:.4f}"


def _ratio(value: Any) -> str:
    return "-" if _missing(value) else f"{100 * value:.1f} %"


def _missing(value: Any) -> bool:
    return value is None or value != value


def _is_first_process() -> bool:
    """True unless ``torchrun`` has started this process beside another one, which then speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def main() -> None:
    """Entry point: errors for a person in one or two lines and exit code 2; ``--verbose`` shows the traceback."""
    arguments = sys.argv[1:]
    verbose = "--verbose" in arguments
    try:
        app(args=[argument for argument in arguments if argument != "--verbose"], prog_name="lwexplain")
    except LwexplainError as error:
        if verbose:
            raise
        if _is_first_process():
            typer.echo(f"error: {error}", err=True)
        sys.exit(130 if isinstance(error, TrainingInterrupted) else 2)


if __name__ == "__main__":
    main()
