"""The command line: parse, call, print. Results go to stdout, progress and errors to stderr."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lwexplain.errors import ConfigError, LwexplainError, LwexplainWarning, TrainingInterrupted, mend
from lwexplain.program import own_command
from lwexplain.signals import EndedBySignal, ended_by_signals
from lwexplain.terminal import ReaderGone, flush, prepare_streams, say, say_json, tell, tell_error
from lwexplain.text import plain
from lwexplain.views.text import (
    print_advice,
    print_comparison,
    print_measurements,
    print_prospects,
    print_similarity,
    print_training,
)

if TYPE_CHECKING:
    from lwexplain.run import Run

UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""Whatever typer raises where the command line itself is wrong."""

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
    if _is_first_process():
        print_training(run)
        say(f"trained: {run.path}")
        say(f"next: {own_command('analyze', run.path)}")


@app.command()
def analyze(
    run_dir: RunDir,
    probes: Annotated[str | None, typer.Option(help="Comma-separated probes (default: all built-in ones).")] = None,
    max_samples: Annotated[int, typer.Option(min=1, help="Largest number of images used of each split.")] = 10_000,
    pooling: Annotated[str, typer.Option(help="mean, max, flatten or pyramid.")] = "mean",
    precision: Annotated[str, typer.Option(help="Of the forward pass: auto, float32 or bfloat16.")] = "auto",
    mem_limit: Annotated[str | None, typer.Option(help="Most memory the process may take, e.g. 2GB.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps (default: as trained).")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="With other settings than before: lose what other probes have measured.")
    ] = False,
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
        replace=replace,
    )
    if not _is_first_process():
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
    as_json: AsJson = False,
) -> None:
    """Recommend the stage to stop at, with the reason, what is to be expected of every depth, and what it costs."""
    from lwexplain import api

    budgets = _budgets(max_params, max_flops, max_latency, max_memory)
    advice = api.recommend(run_dir, tolerance, objective=objective, budgets=budgets, retrain=not as_is)
    if as_json:
        say_json(advice.to_dict())
        return
    print_advice(advice)
    print_prospects(advice)
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
    as_json: AsJson = False,
) -> None:
    """Write the shorter network to a file that runs without lwexplain, check it, and measure it beside the full one."""
    from lwexplain import api
    from lwexplain.views.exported import print_export

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
    registry = _registry(kind)
    width = max(len(name) for name in registry.names())
    for name in registry.names():
        say(f"{name:<{width}}  {registry.summary(name)}")
    if kind is Kind.probes:
        from lwexplain.probes.engine import ALWAYS

        say(f"measured in every analysis, without being named: {', '.join(ALWAYS)}")


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


def _is_first_process() -> bool:
    """True unless ``torchrun`` has started this process beside another one, which then speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def main() -> None:
    """Entry point: errors for a person in one or two lines and exit code 2; ``--verbose`` shows the traceback."""
    prepare_streams()
    arguments = sys.argv[1:]
    verbose = "--verbose" in arguments
    code = 0
    try:
        with ended_by_signals(), notes_on_stderr():
            code = app([item for item in arguments if item != "--verbose"], "lwexplain", standalone_mode=False)
            flush()
    except ReaderGone:
        code = 1
    except UsageError as error:
        if arguments:
            tell_error(f"{error.format_message()} See lwexplain {_command_of(arguments)}--help")
        else:
            error.show()  # the list of commands
        code = 2
    except EndedBySignal as ended:
        if _is_first_process():
            tell(f"stopped by {ended}; run the same command again, train with --resume where its run has begun")
        code = 128 + ended.number
    except (LwexplainError, OSError, MemoryError) as error:
        if verbose:
            raise
        if _is_first_process():
            tell_error(_in_words(error))
        code = 130 if isinstance(error, TrainingInterrupted) else 2
    finally:
        _leave_the_other_processes()
    sys.exit(code or 0)


def _leave_the_other_processes() -> None:
    """Take down what a command has built up under torchrun: its threads must not outlive Python."""
    module = sys.modules.get("lwexplain.processes")
    if module is not None:
        module.leave_world()


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Within the block, warnings of lwexplain are lines on standard error; of several processes the first one's."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LwexplainWarning)
        show = warnings.showwarning

        def note(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, LwexplainWarning):
                show(message, category, *place, **more)
            elif _is_first_process():
                tell(f"note: {message}")

        warnings.showwarning = note
        yield


def _in_words(error: BaseException) -> str:
    """An error with the next step."""
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        return f"{what}{f': {plain(error.filename)}' if error.filename else ''}; {mend(error)}"
    if isinstance(error, MemoryError):
        return "there is not enough memory; take fewer samples (--max-samples) or smaller batches (data.batch_size)"
    return str(error)


def _command_of(arguments: list[str]) -> str:
    """``train `` where the command of that name was called."""
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    return next((f"{item} " for item in arguments if item in names), "")


if __name__ == "__main__":
    main()
