"""The commands: each parses its words, calls the interface, and prints what that returned."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lwexplain.cli.names import Kind, lines_of_names
from lwexplain.cli.network import Again, ModelArgs, with_network
from lwexplain.cli.options import (
    AsJson,
    MaxFlops,
    MaxLatency,
    MaxMemory,
    MaxParams,
    Objective,
    Reproducible,
    RunDir,
    Tolerance,
    budgets_of,
)
from lwexplain.errors import ConfigError
from lwexplain.program import is_first_process, own_command
from lwexplain.terminal import say, say_json, tell
from lwexplain.views.text import (
    print_advice,
    print_comparison,
    print_measurements,
    print_prospects,
    print_rules,
    print_similarity,
    print_training,
)

if TYPE_CHECKING:
    from lwexplain.run import Run

app = typer.Typer(
    name="lwexplain",
    help="Train image classifiers layer-wise or by back-propagation, look inside every stage, and learn where to stop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
) -> None:
    """Read by ``main``, which accepts --verbose anywhere on the line."""


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the two runs.")] = Path("runs/demo")) -> None:
    """Train on the embedded digits by bp and greedy, analyze, recommend, and write the reports."""
    from lwexplain import api
    from lwexplain.demo import run_demo

    def announce(text: str) -> None:
        say()
        say(text)

    def show(run: "Run") -> None:
        print_measurements(run)
        print_advice(api.recommend(run))

    reports = run_demo(out, say=announce, show=show)
    say()
    for path in reports:
        say(f"report: {path}")
    say(f"explore: {own_command('explore', out)}")


@app.command()
def explore(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Folders of runs (default: runs).")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on (default: 8501).")] = None,
) -> None:
    """Look at runs in a browser; answers this machine only and opens nothing outside of the folders."""
    from lwexplain.explorer.server import explore as start

    start(folders or [Path("runs")], port)


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
    if is_first_process():
        print_training(run)
        say(f"trained: {run.path}")
        say(f"next: {own_command('analyze', run.path)}")


@app.command()
def analyze(
    run_dir: RunDir,
    probes: Annotated[str | None, typer.Option(help="Comma-separated probes (default: all built-in ones).")] = None,
    max_samples: Annotated[int, typer.Option(min=1, help="Largest number of images used of each split.")] = 10_000,
    pooling: Annotated[str, typer.Option(help="auto, mean, max, cls, cls+mean, flatten or pyramid.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of the forward pass: auto, float32 or bfloat16.")] = "auto",
    mem_limit: Annotated[str | None, typer.Option(help="Most memory the process may take, e.g. 2GB.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps (default: as trained).")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="With other settings than before: lose what other probes have measured.")
    ] = False,
    model: Again = None,
    model_args: ModelArgs = None,
) -> None:
    """Capture every stage and measure the probes; what was measured before is not measured again."""
    from lwexplain import api
    from lwexplain.run import Run

    names = [name.strip() for name in probes.split(",") if name.strip()] if probes is not None else None
    run = with_network(Run.open(run_dir), model, model_args, device)
    api.analyze(
        run,
        names,
        max_samples=max_samples,
        pooling=pooling,
        precision=precision,
        mem_limit=mem_limit,
        device=device,
        replace=replace,
    )
    if not is_first_process():
        return
    print_measurements(run)
    say(f"analyzed: {run.metrics_path}")
    say(f"next: {own_command('recommend', run_dir)}")


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
    rules: Annotated[
        bool, typer.Option("--rules", help="Also where each simple rule of the literature would stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recommend the stage to stop at, with the reason, what is to be expected of every depth, and what it costs."""
    from lwexplain import api
    from lwexplain.advice.simple_rules import rules_beside
    from lwexplain.results import read_metrics
    from lwexplain.run import Run

    budgets = budgets_of(max_params, max_flops, max_latency, max_memory)
    advice = api.recommend(run_dir, tolerance, objective=objective, budgets=budgets, retrain=not as_is)
    stops = rules_beside(read_metrics(Run.open(run_dir))) if rules else []
    if as_json:
        say_json(advice.to_dict() | ({"rules": [asdict(stop) for stop in stops]} if rules else {}))
        return
    print_advice(advice)
    print_prospects(advice)
    if rules:
        print_rules(advice, stops)
    if not as_is and advice.source != "head" and advice.verdict == "stop_here":
        train = own_command("train", run_dir / "config.yaml", f"model.depth={advice.depth}")
        say(f"next: {train} --run-dir NEW_DIR")


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
    model: Again = None,
    model_args: ModelArgs = None,
    as_json: AsJson = False,
) -> None:
    """Write the shorter network to a file that runs without lwexplain, check it, and measure it beside the full one."""
    from lwexplain import api
    from lwexplain.run import Run
    from lwexplain.views.exported import print_export

    exported = api.export(
        with_network(Run.open(run_dir), model, model_args, device),
        out,
        depth=depth,
        format=file_format,
        head=head,
        early_exit=early_exit,
        tolerance=tolerance,
        objective=objective,
        budgets=budgets_of(max_params, max_flops, max_latency, max_memory),
        device=device,
    )
    if as_json:
        say_json(exported.to_dict())
        return
    print_export(exported)
    if exported.head == "fresh":
        advise = own_command("recommend", run_dir)
        say(f"a network trained anew may need fewer stages for the same accuracy: {advise}")


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
        print_similarity(api.similarity(*run_dirs), as_json)
        return
    print_comparison(api.compare(run_dirs, tolerance), as_json)


@app.command()
def report(
    run_dir: RunDir,
    out: Annotated[Path | None, typer.Option(help="File to write (default: report.html in the run).")] = None,
) -> None:
    """Write the self-contained HTML report of an analyzed run."""
    from lwexplain import api

    say(f"report: {api.report(run_dir, out)}")


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
    from lwexplain.views.study_table import print_study

    folder = out or Path("runs") / f"{what.value}_{Path(data).name}"
    settings = parse_overrides(overrides or [])
    rows = reproduce_thesis(data, width, seeds, folder, settings, say=tell)
    print_study(rows)
    say()
    say(f"tables: {folder / 'table.md'}, {folder / 'table.json'}")


@app.command("list")
def list_names(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what can be named in a configuration or on the command line."""
    for line in lines_of_names(kind):
        say(line)
