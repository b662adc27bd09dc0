"""The Python interface: train, analyze, recommend, report and compare in one call each."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lwexplain.arguments import (
    PRECISIONS,
    choice,
    class_names,
    device_name,
    flag,
    memory_limit,
    path_of,
    pooling_of,
    probes_of,
    quiet_of,
    seed_of,
    stage_names,
    whole_number,
)
from lwexplain.config import Config, load_config
from lwexplain.errors import (
    CaptureError,
    ConfigError,
    ExportError,
    LwexplainWarning,
    ProbeError,
    RunError,
)
from lwexplain.program import own_option
from lwexplain.progress import tell
from lwexplain.run import Run
from lwexplain.run.named import run_of, runs_of
from lwexplain.stored_config import is_config_of_a_run, most_bytes, require_own_sources, without_outside
from lwexplain.text import shell_command

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lwexplain.advice.recommend import Recommendation
    from lwexplain.exporting.export import Exported
    from lwexplain.probes.base import Probe
    from lwexplain.processes import World


def train(
    config: str | Path | dict[str, Any] | Config,
    overrides: dict[str, Any] | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    quiet: bool | None = None,
) -> Run:
    """Train a network as configured and return its run.

    ``config`` is a YAML file, a mapping or a Config; ``overrides`` are dotted keys on top. The run directory is
    ``run_dir``, by default ``runs/<name of the file>``. With ``resume`` a run that was interrupted goes on exactly
    where its last checkpoint lies (on the CPU bit for bit); a finished one is returned as it is; one that is not there,
    because it was stopped before it was made, starts from the beginning, with a warning. Under ``torchrun`` every
    process calls this and they train together.

    Raises ConfigError, UnknownNameError, DataError, ModelError, RunError and TrainingError (a loss that is not finite;
    the last good checkpoint stays).
    """
    flag("resume", resume)
    quiet = quiet_of(quiet)
    if resume and run_dir is not None:
        _require_known_configuration(config, path_of("run_dir", run_dir))
    settings = load_config(config, overrides)
    named = Path("runs") / (_stem(config) or settings.data.name)
    path = named if run_dir is None else path_of("run_dir", run_dir)
    run = _resumed(path, settings) if resume else None
    if run is not None and run.status == "trained":
        return run
    if run is not None and run.status != "created":  # its weights are in its checkpoint
        download = settings.data.download and "data.download" in (overrides or {})
        settings = without_outside(settings, f"{path}/config.yaml", download=download)
    elif isinstance(config, (str, Path)) and is_config_of_a_run(Path(config)):
        require_own_sources(settings, str(config), overrides or {})

    from lwexplain.processes import joined_world

    with joined_world() as world:
        return _train(settings, path, run, world, quiet)


def _train(settings: Config, path: Path, run: Run | None, world: "World", quiet: bool | None) -> Run:
    """Train into a new run, or go on with ``run``; of several processes the first one makes and holds it."""
    from lwexplain.data.load import load_data
    from lwexplain.data.same_data import require_same_data
    from lwexplain.models.size_limit import SizeLimit
    from lwexplain.training.loop import Trainer

    settings = _with_absolute_root(settings)
    data = load_data(settings.data, settings.seed)
    if world.is_main and not quiet:
        for note in data.notes:
            tell(note)
    if run is not None:
        require_same_data(data, run, what="started on")
    # everything that a wrong configuration could raise comes before the directory is made
    resume = run is not None
    with SizeLimit(most_bytes(run)) if run is not None and run.status != "created" else nullcontext():
        trainer = Trainer(settings, data.for_training(), stop_rule=_stop_rule(data.val.labels), world=world)
    with world.first_alone():
        if run is None and world.is_main:
            run = Run.create(
                path,
                settings.to_yaml(),
                data={
                    "name": data.name,
                    "classes": data.classes,
                    "shape": list(data.shape),
                    "sizes": {"train": len(data.train), "val": len(data.val), "test": len(data.test or ())},
                    "fingerprint": data.fingerprint,
                    "part_fingerprints": dict(data.part_fingerprints),
                    "notes": list(data.notes),
                },
                model=settings.model.name,
                strategy=settings.training.strategy,
            )
    run = run or Run.open(path)
    with run.lock("lwexplain train") if world.is_main else nullcontext():
        run = Run.open(path)  # another process may have gone on with it until a moment ago
        if run.status != "trained":
            trainer.fit(run, resume=resume and run.status != "created", quiet=quiet)
        world.wait()
    return Run.open(path)


def analyze(
    run: "Run | str | Path",
    probes: "Sequence[str | Probe] | None" = None,
    *,
    max_samples: int | None = 10_000,
    pooling: str = "mean",
    precision: str = "auto",
    mem_limit: int | str | None = None,
    device: str | None = None,
    replace: bool = False,
    quiet: bool | None = None,
) -> pd.DataFrame:
    """Capture every stage of a trained run, measure the probes, and return (and write) the long table.

    ``probes``: names of ``lwexplain list probes`` or objects with ``name`` and ``measure(stage)``; None = all built-in
    ones. ``max_samples`` bounds each split by a stratified sub-sample (None = all). ``pooling``: ``mean``, ``max``,
    ``flatten`` or ``pyramid``. ``precision`` of the forward pass: ``float32``, ``bfloat16``, or ``auto``, which takes
    bfloat16 for long passes where the device is made for it and the features stay the same to 3 % of their spread; the
    table says so. ``mem_limit`` (bytes, or text as ``"2GB"``) bounds the memory of this process.

    Features and the results of every probe are kept in the run: what was measured before with the same settings is not
    measured again, a further probe reads the features that are there, and an interrupted analysis goes on where it was.
    Results with other settings take the place of those before; where that would lose a probe's results, because not all
    of its probes are asked for, it is an error unless ``replace`` is set.

    Under ``torchrun`` every process calls this and they share the work. Columns and ``attrs`` of the table are
    described in ``lwexplain.results``; probes that raised are listed in ``attrs["failures"]``.
    """
    from lwexplain.analysis.kept import kept_analysis, require_nothing_lost
    from lwexplain.results import AnalysisKey, read_metrics

    run = run_of(run)
    chosen = probes_of(probes)
    if max_samples is not None:
        max_samples = whole_number("max_samples", max_samples, least=1, none="for all", family=CaptureError)
    pooling_of(pooling, own=False)
    choice("precision", precision, PRECISIONS, CaptureError)
    limit, device, quiet = memory_limit(mem_limit), device_name(device), quiet_of(quiet)
    key = AnalysisKey.of(run, max_samples=max_samples, pooling=pooling, precision=precision)
    names = [probe for probe in chosen if isinstance(probe, str)] if chosen is not None else None
    if names is None or len(names) == len(chosen or ()):
        table = kept_analysis(run, key, names)
        if table is not None:
            return table
    asked = _known(chosen)
    if not flag("replace", replace):
        require_nothing_lost(run, key, None if chosen is None else [_name_of(probe) for probe in chosen])

    from lwexplain.analysis.analyze_run import analyze_run
    from lwexplain.processes import joined_world

    with joined_world() as world:
        result = analyze_run(run, asked, key, mem_limit=limit, device=device, world=world, quiet=quiet)
        return result.metrics if world.is_main else read_metrics(run)


def analyze_model(
    model: "nn.Module",
    loaders: Mapping[str, Iterable[Sequence[Any]]],
    stages: Sequence[str],
    probes: "Sequence[str | Probe] | None" = None,
    *,
    classes: Sequence[str] | None = None,
    pooling: Any = "mean",
    mem_limit: int | str | None = None,
    device: str | None = None,
    seed: int = 0,
    quiet: bool | None = None,
) -> pd.DataFrame:
    """Analyze any module at its named submodules; no run directory is needed or written.

    ``loaders`` maps ``train``, ``val`` and (optionally) ``test`` to iterables of (images float32 (N, C, H, W), labels
    int64 (N,)). ``stages`` are module names in the order in which they run; a module that is called several times gives
    a stage a call, ``NAME#1``, ``NAME#2``, ... The model is left exactly as it was.
    """
    names, place, own = stage_names(stages), device_name(device), class_names(classes)
    pooling_of(pooling, own=True)
    limit, seed, quiet = memory_limit(mem_limit), seed_of(seed), quiet_of(quiet)
    chosen = _known(probes_of(probes))

    from lwexplain.analysis.analyze_module import analyze_model as analyze_module
    from lwexplain.data.given_batches import check_loaders
    from lwexplain.models.foreign import check_model

    result = analyze_module(
        check_model(model),
        check_loaders(loaders),
        names,
        chosen,
        classes=own,
        pooling=pooling,
        device=place,
        mem_limit=limit,
        seed=seed,
        quiet=quiet,
    )
    return result.metrics


def recommend(
    table: "pd.DataFrame | Run | str | Path",
    tolerance: float = 0.005,
    *,
    objective: str = "params",
    budgets: Mapping[str, float] | None = None,
    retrain: bool = True,
) -> "Recommendation":
    """Advice on depth from an analysis table or an analyzed run; see ``lwexplain.advice.recommend``.

    The cheapest depth by ``objective`` (``params``, ``flops``, ``latency``, ``memory``) whose network, trained anew
    with that depth, is expected to lose no more than ``tolerance`` against the best depth, or with the objective
    ``accuracy`` the most accurate one; within ``budgets`` such as ``{"params": 1e6, "latency": 0.002}`` (parameters,
    FLOPs, seconds, bytes, for one image). ``retrain`` False asks where the trained network can be cut as it stands.

    For a run, the recommendation is also kept in ``analysis/recommendation.json``; a warning says where it cannot be.

    How often that is right was measured on tasks whose networks were retrained at every depth, at a tolerance of half a
    point, each task advised on with coefficients fitted on the others alone (tests/benchmarks/depth_scores.py). Regret
    is the accuracy lost against the cheapest depth that is enough, in points:

    .. table: depth_rules

    | rule | mean regret | worst | within one stage | too deep | too shallow | parameters to the oracle's |
    | --- | ---: | ---: | ---: | ---: | ---: | ---: |
    | lwexplain | 0.09 | 0.70 | 93 % | 22 % | 11 % | 1.21 |
    | always full | 0.26 | 1.64 | 43 % | 83 % | 0 % | 3.37 |
    | middle | 1.93 | 12.91 | 61 % | 13 % | 70 % | 0.45 |
    | probe at 98 % of best | 0.61 | 2.27 | 86 % | 35 % | 47 % | 1.07 |
    | one standard error | 0.40 | 1.77 | 76 % | 53 % | 22 % | 1.61 |
    | nearest-class-mean effective depth | 0.24 | 1.64 | 66 % | 67 % | 1 % | 2.38 |
    | saturation tail | 0.22 | 1.64 | 49 % | 83 % | 0 % | 3.16 |
    | receptive-field border | 0.28 | 1.98 | 57 % | 65 % | 13 % | 2.38 |
    | knee of GDV | 2.30 | 8.37 | 37 % | 43 % | 43 % | 0.80 |
    | plateau of separability index | 0.27 | 1.64 | 75 % | 53 % | 12 % | 1.80 |
    | break of separation law | 0.32 | 1.64 | 71 % | 64 % | 14 % | 2.17 |
    | gain below threshold | 1.01 | 8.80 | 77 % | 52 % | 22 % | 1.49 |

    .. end of table
    """
    from lwexplain.advice.question import Question
    from lwexplain.advice.recommend import recommend as advise
    from lwexplain.results import read_metrics

    question = Question(tolerance, objective, {} if budgets is None else budgets, retrain)
    if isinstance(table, pd.DataFrame):
        return advise(table, question)
    run = run_of(table, "the table or run")
    advice = advise(read_metrics(run), question)
    if question.retrain:
        try:
            run.write_json("analysis/recommendation.json", advice.to_dict())
        except RunError as error:  # a run that somebody only lets us read, or a full disk
            warnings.warn(f"the recommendation is not kept in the run: {error}", LwexplainWarning, stacklevel=2)
    return advice


def export(
    run: "Run | str | Path",
    out: str | Path,
    *,
    depth: int | str = "auto",
    format: str | None = None,
    head: str = "auto",
    early_exit: bool = False,
    tolerance: float = 0.005,
    objective: str = "params",
    budgets: Mapping[str, float] | None = None,
    device: str | None = None,
    quiet: bool | None = None,
) -> "Exported":
    """Write the network of a trained run, cut at ``depth``, as ``.pt2`` or ONNX; see ``lwexplain.exporting.export``.

    The file holds normalisation, stages and head, takes images float32 (N, C, H, W) in [0, 1], returns logits (N, K)
    and needs no lwexplain. It is checked against the network and measured on test beside the full one.
    """
    from lwexplain.advice.question import Question
    from lwexplain.exporting.export import export_run

    question = Question(tolerance, objective, {} if budgets is None else budgets)
    return export_run(
        run_of(run),
        path_of("out", out, ExportError),
        depth=depth,
        format=format,
        head=head,
        early_exit=flag("early_exit", early_exit),
        question=question,
        device=device_name(device),
        quiet=quiet_of(quiet),
    )


def report(run: "Run | str | Path", out: str | Path | None = None) -> Path:
    """Write the self-contained HTML report of an analyzed run; returns its path (``report.html`` in the run)."""
    from lwexplain.views.report import write_report

    return write_report(run_of(run), None if out is None else path_of("out", out))


def compare(runs: "Sequence[Run | str | Path]", tolerance: float = 0.005) -> pd.DataFrame:
    """One row a run: strategy, recommendation, accuracies, costs and training time."""
    from lwexplain.advice.question import Question
    from lwexplain.advice.recommend import recommend as advise
    from lwexplain.results import read_metrics

    question = Question(tolerance)
    rows = []
    for run in runs_of(runs):
        advice = advise(read_metrics(run), question)
        rows.append(
            {
                "run": run.name,
                "data": run.manifest.get("data", {}).get("name"),
                "model": run.manifest.get("model"),
                "strategy": run.manifest.get("strategy"),
                "training_seconds": run.manifest.get("seconds"),
                **advice.to_dict(),
            }
        )
    return pd.DataFrame(rows)


def _name_of(probe: "str | Probe") -> str:
    return probe if isinstance(probe, str) else str(probe.name)


def _known(probes: "list[str | Probe] | None") -> "list[str | Probe]":
    """The probes to run; what is wrong with them is said before the data is looked at."""
    from lwexplain.probes.base import PROBES
    from lwexplain.probes.engine import ALWAYS, default_probes, name_of

    if probes is None:
        return list(default_probes())
    names = []
    for probe in probes:
        if isinstance(probe, str) and probe in ALWAYS:
            raise ProbeError(
                f"{probe!r} is measured in every analysis and is no probe to name; leave it out of the list"
            )
        if isinstance(probe, str):
            PROBES.get(probe)
        names.append(probe if isinstance(probe, str) else name_of(probe))
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ProbeError(f"two probes are called {twice[0]!r}; give one of them another name, or name it once")
    return probes


def similarity(
    first: "Run | str | Path",
    second: "Run | str | Path",
    *,
    max_samples: int = 2000,
    device: str | None = None,
) -> pd.DataFrame:
    """How alike the stages of two trained runs represent the same images (a run may be compared with itself).

    One row a pair of stages: ``stage, depth, other_stage, other_depth, cka_linear, cka_rbf``, the unbiased estimates of
    centred kernel alignment (Kornblith et al. 2019) on at most ``max_samples`` val images of the first run. The
    runs may differ in everything but the shape of their images.
    """
    from lwexplain.analysis.between_runs import similarity_of_runs

    if whole_number("max_samples", max_samples, least=1, family=CaptureError) < 4:
        raise CaptureError(f"max_samples is {max_samples}; the unbiased estimate needs 4 images or more")
    runs = run_of(first, "the first run"), run_of(second, "the second run")
    return similarity_of_runs(*runs, max_samples=int(max_samples), device=device_name(device))


def _stem(config: Any) -> str | None:
    return Path(config).stem if isinstance(config, (str, Path)) else None


def _stop_rule(labels: "Tensor") -> Any:
    """The rule that may end layer-wise training, on val samples with these labels (N,)."""
    from lwexplain.advice.rules import stop_training

    frequent = (labels == labels.bincount().argmax()).numpy()
    chance = float(frequent.mean())
    return lambda hits: stop_training([hit.numpy() for hit in hits], chance, frequent=frequent)


def _require_known_configuration(config: Any, path: Path) -> None:
    """Raise RunError where the configuration should be that of a run which was stopped before it was made."""
    if isinstance(config, (str, Path)) and Path(config).parent == path and not (path / "run.json").exists():
        again = shell_command("lwexplain", "train", "CONFIG", "--run-dir", path)
        if not Path(config).exists() or Run.is_unfinished(path):
            raise RunError(f"there is no run {path}: it was stopped before it was made; start it again with {again}")


def _resumed(path: Path, settings: Config) -> Run | None:
    """The run to go on with, once it is clear that its configuration is the same; None where it was never made."""
    if not path.exists() or Run.is_unfinished(path):
        warnings.warn(
            f"there is no run {path} to go on with: it starts from the beginning", LwexplainWarning, stacklevel=3
        )
        return None
    run = Run.open(path)
    if run.status == "failed":
        run.require_trained()
    before = _comparable(load_config(run.config()))
    now = _comparable(settings)
    different = sorted(key for key in before | now if before.get(key) != now.get(key))
    if different:
        changes = ", ".join(f"{key} ({before.get(key)!r} then, {now.get(key)!r} now)" for key in different)
        raise ConfigError(
            f"{path} was started with another configuration: {changes}; use another {own_option('run_dir')}"
        )
    return run


def _with_absolute_root(config: Config) -> Config:
    """The configuration with the place of the data as it is from any folder, for the run to be used from anywhere."""
    if config.data.root is None:
        return config
    from lwexplain.data.root import expanded_root

    root = expanded_root(config.data.root).absolute()
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def _comparable(config: Config) -> dict[str, Any]:
    """Dotted keys of everything that changes the result."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, tree: Any) -> None:
        if isinstance(tree, dict) and tree:
            for key, value in tree.items():
                walk(f"{prefix}.{key}" if prefix else key, value)
        else:
            flat[prefix] = tree

    walk("", config.model_dump(mode="json"))
    for free in ("device", "training.checkpoint_seconds", "data.workers", "data.root", "data.download"):
        flat.pop(free, None)
    return flat
