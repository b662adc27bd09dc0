"""The Python interface: train, analyze, recommend, report and compare in one call each."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from lwexplain.progress import tell_note
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

    Under ``torchrun`` every process calls this and they train together.

    Args:
        config: A YAML file, a mapping or a Config.
        overrides: Dotted keys on top of it, such as ``{"training.epochs": 3}``.
        run_dir: The run directory, by default ``runs/<name of the file>``.
        resume: Go on with a run that was interrupted, exactly where its last checkpoint lies (on the CPU bit for bit).
            A finished run is returned as it is. One that is not there, because it was stopped before it was made,
            starts from the beginning, with a warning.
        quiet: True shows no progress, False shows it; by default it is shown on a terminal.

    Returns:
        The trained run.

    Raises:
        ConfigError: A key or value of the configuration is wrong, or the run was begun with another configuration.
        UnknownNameError: There is no model, data set, strategy, head or loss of that name, or it lacks an option.
        DataError: The images are missing or unreadable.
        ModelError: The network cannot be built as asked.
        RunError: Something else lies at ``run_dir``, another process works there, or the images are not those that the
            run was begun on.
        TrainingError: The loss is not finite; the last good checkpoint stays.

    Examples:
        >>> config = {
        ...     "data": {"name": "digits", "train_size": 200},
        ...     "model": {"name": "cnn", "width": 4, "units": "group"},
        ... }
        >>> run = lw.train(config, overrides={"training.epochs": 1}, run_dir="runs/first")
        >>> run.status, run.trained_depth
        ('trained', 3)
    """
    flag("resume", resume)
    quiet = quiet_of(quiet)
    if resume and run_dir is not None:
        _require_known_configuration(config, path_of("run_dir", run_dir))
    settings = load_config(config, overrides)
    named = Path("runs") / (_stem(config) or settings.data.name)
    path = named if run_dir is None else path_of("run_dir", run_dir)
    run = _resumed(path, settings) if resume else None
    if run is not None and run.is_adopted:
        raise RunError(
            f"{path} was adopted, not trained by lwexplain; choose another folder with {own_option('run_dir')}"
        )
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
    from lwexplain.training.build import require_trained_prefix
    from lwexplain.training.loop import Trainer

    if run is None or run.status == "created":
        require_trained_prefix(settings)
    settings = _with_absolute_root(settings)
    data = load_data(settings.data, settings.seed)
    if world.is_main and not quiet:
        for note in data.notes:
            tell_note(note)
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
    pooling: str = "auto",
    precision: str = "auto",
    mem_limit: int | str | None = None,
    device: str | None = None,
    replace: bool = False,
    model: "nn.Module | None" = None,
    quiet: bool | None = None,
) -> pd.DataFrame:
    """Capture every stage of a trained run, measure the probes, and return (and write) the long table.

    Features and the results of every probe are kept in the run: what was measured before with the same settings is not
    measured again, a further probe reads the features that are there, and an interrupted analysis goes on where it was.
    Results with other settings take the place of those before. Under ``torchrun`` every process calls this and they
    share the work.

    Args:
        run: A run or its directory.
        probes: Names of ``lwexplain list probes`` or objects with ``name`` and ``measure(stage)``; None = all built-in
            ones and those of installed packages.
        max_samples: Bound of each split, by a stratified sub-sample; None = all samples.
        pooling: How features over positions become one row: ``auto`` (the mean of maps; of tokens what the network's
            own head reads), ``mean``, ``max``, ``cls``, ``cls+mean``, ``flatten`` or ``pyramid``.
        precision: Of the forward pass: ``float32``, ``bfloat16``, or ``auto``, which takes bfloat16 for long passes
            where the device is made for it and the features stay the same to 3 % of their spread; the table says so.
        mem_limit: Bound of the memory of this process, in bytes or as ``"2GB"``.
        device: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; by default where the run was trained.
        replace: With other settings than before: lose what other probes have measured.
        model: Of an adopted run, its network as it was adopted, for what needs it: attribution maps and another
            pooling. The run that ``lw.adopt`` returned has it at hand.
        quiet: True shows no progress, False shows it; by default it is shown on a terminal.

    Returns:
        The table, a row for each measurement. Its columns and ``attrs`` are described on the page "The run directory
        and the table"; probes that raised are listed in ``attrs["failures"]``.

    Raises:
        RunError: The run is not trained, its images are not those that it was trained on, or other settings would lose
            what probes that are not asked for have measured and ``replace`` is not set.
        DataError: The images are missing or unreadable.
        UnknownNameError: There is no probe of that name.
        ProbeError: An object is no probe, or two probes have one name.
        CaptureError: An argument is out of range, or features cannot be captured.

    Examples:
        >>> table = lw.analyze("runs/digits", probes=["linear"])
        >>> overall = table[(table["metric"] == "linear_probe_accuracy") & table["class"].isna()]
        >>> sorted(overall["split"].unique())
        ['test', 'train', 'val']
    """
    from lwexplain.analysis.kept import kept_analysis, require_nothing_lost
    from lwexplain.probes.hooks import name_as_asked
    from lwexplain.results import AnalysisKey, read_metrics

    run = _with_network(run_of(run), model, device)
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
    asked = _probes_to_run(chosen)
    if not flag("replace", replace):
        require_nothing_lost(run, key, None if chosen is None else [name_as_asked(probe) for probe in chosen])

    from lwexplain.analysis.analyze_run import analyze_run
    from lwexplain.processes import joined_world

    with joined_world() as world:
        result = analyze_run(
            run, None if chosen is None else asked, key, mem_limit=limit, device=device, world=world, quiet=quiet
        )
        return result.metrics if world.is_main else read_metrics(run)


def analyze_model(
    model: "nn.Module",
    loaders: Mapping[str, Iterable[Any]],
    stages: Sequence[str],
    probes: "Sequence[str | Probe] | None" = None,
    *,
    classes: Sequence[str] | None = None,
    batch: Callable[[Any], Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pooling: Any = "auto",
    mem_limit: int | str | None = None,
    device: str | None = None,
    seed: int = 0,
    final_norm: bool = False,
    quiet: bool | None = None,
) -> pd.DataFrame:
    """Analyze any module at its named submodules; no run directory is needed or written.

    The model is left exactly as it was.

    Args:
        model: Any ``torch.nn.Module``.
        loaders: ``train``, ``val`` and (optionally) ``test``: iterables of batches of images (N, C, H, W) and labels
            (N,): tuples, lists, or mappings and objects that name them (``pixel_values``, ``images``, ``labels``, ...).
            Images are floats, normalised as for the network, or uint8.
        stages: Module names in the order in which they run. A module that is called several times gives a stage for
            each call, ``NAME#1``, ``NAME#2``, ...
        probes: As in ``lw.analyze``.
        classes: Names of the classes; by default their numbers.
        batch: A function from a batch of any other form to (images, labels).
        mean: Of pixels in [0, 1], a value a channel: what the network was trained with. Images of uint8 are normalised
            by it, and scaled to [0, 1] without it.
        std: Likewise.
        pooling: As in ``lw.analyze``, or a function from a stage's output to (N, D).
        mem_limit: Bound of the memory of this process, in bytes or as ``"2GB"``.
        device: Where images go, by default where the model lies.
        seed: Of what is drawn, such as sub-samples.
        final_norm: Let every stage pass through the network's own final normalisation before it is pooled, as only
            the last one does in the network; for stages of the width of the last one.
        quiet: True shows no progress, False shows it; by default it is shown on a terminal.

    Returns:
        The table of ``lw.analyze``.

    Raises:
        ModelError: The model is no module, or one that cannot be run or looked into.
        CaptureError: A stage is not there or gives no features, or a loader gives something else than images and
            labels.
        UnknownNameError: There is no probe of that name.
        ProbeError: An object is no probe, or two probes have one name.
        UserCodeError: The model or a loader raised; its error is the cause.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 2
        >>> loaders = {"train": [(images[:20], labels[:20])], "val": [(images[20:], labels[20:])]}
        >>> table = lw.analyze_model(model, loaders, stages=["1", "2"], probes=["linear"])
        >>> table.attrs["stages"]
        ['1', '2']
    """
    names, place, own = stage_names(stages), device_name(device), class_names(classes)
    pooling_of(pooling, own=True)
    limit, seed, quiet = memory_limit(mem_limit), seed_of(seed), quiet_of(quiet)
    chosen = _probes_to_run(probes_of(probes))

    from lwexplain.analysis.analyze_module import analyze_module
    from lwexplain.data.batch_form import BatchForm
    from lwexplain.data.given_batches import check_loaders
    from lwexplain.models.foreign import check_model

    result = analyze_module(
        check_model(model),
        check_loaders(loaders),
        names,
        chosen,
        classes=own,
        form=BatchForm.of(batch, mean, std),
        pooling=pooling,
        device=place,
        mem_limit=limit,
        seed=seed,
        final_norm=flag("final_norm", final_norm),
        quiet=quiet,
    )
    return result.metrics


def adopt(
    model: "nn.Module",
    loaders: "Mapping[str, Any] | str | Path",
    stages: "str | Sequence[str]" = "auto",
    *,
    out: str | Path | None = None,
    classes: Sequence[str] | None = None,
    mean: "Sequence[float] | float | None" = None,
    std: "Sequence[float] | float | None" = None,
    batch: "Callable[[Any], Any] | None" = None,
    max_samples: int | None = None,
    device: str | None = None,
    seed: int = 0,
    final_norm: bool = False,
    replace: bool = False,
    quiet: bool | None = None,
) -> Run:
    """Make a run of a network that somebody else trained, in whatever loop; everything that takes a run takes it.

    Each image passes once: the features of all stages, the network's own logits and its weights are kept in the run,
    with small pictures of val. Its code is not, and no command imports any because a run names it: what needs the
    network on another day (attribution maps, another pooling, an export) takes it as ``model=`` again. Called again
    with the same network and images, it gives the run that is there, with its network at hand. The model is left as it
    was.

    Args:
        model: Any ``torch.nn.Module`` that classifies images.
        loaders: ``train``, ``val`` and (optionally) ``test``: loaders as in ``lw.analyze_model``. Or a folder with a
            sub-folder of images for each class, or keys of ``data`` in a configuration:
            ``{"name": "folder", "root": "flowers", "image_size": 224}``.
        stages: ``auto``, a list of module names in the order in which they run, or a regular expression.
        out: The run directory, by default ``runs/NAME`` with the name of the network's class.
        classes: Names of the classes; by default those of the data set, or their numbers.
        mean: Of each channel of pixels in [0, 1], as images are normalised for the network. Of a data set by name it
            must be said, unless the network says it (as those of timm do); of loaders it brings back true colours.
        std: Standard deviation of each channel, likewise.
        batch: Finds images and labels in a batch, as in ``lw.analyze_model``; not needed for the usual forms.
        max_samples: Of a data set by name: bound of each split, by a stratified sub-sample; None = all samples.
        device: Where images pass, by default where the model lies.
        seed: Of what is drawn: splits of a data set by name, sub-samples, and what probes draw.
        final_norm: As in ``lw.analyze_model``.
        replace: Lose the run that lies at ``out``, once the new one is whole.
        quiet: True shows no progress, False shows it; by default it is shown on a terminal.

    Returns:
        The run, with status ``adopted``.

    Raises:
        ModelError: The model is no module, or one that cannot be run or looked into.
        CaptureError: A stage is not there or gives no features, or a loader gives something else than images and
            labels.
        ConfigError: Nothing says how images of a data set are normalised.
        DataError: The images are missing or unreadable.
        RunError: A run of another network, or of other images, lies at ``out``.
        UserCodeError: The model or a loader raised; its error is the cause.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten())
        >>> model = nn.Sequential(*body, nn.Linear(128, 2))
        >>> images, labels = torch.rand(60, 1, 8, 8), torch.arange(60) % 2
        >>> loaders = {"train": [(images[:30], labels[:30])], "val": [(images[30:], labels[30:])]}
        >>> run = lw.adopt(model, loaders, stages=["1", "3"], out="runs/mine")
        >>> run.status, run.trained_depth
        ('adopted', 2)
        >>> table = lw.analyze(run, probes=["linear"])
    """
    if max_samples is not None:
        max_samples = whole_number("max_samples", max_samples, least=1, none="for all", family=CaptureError)
    own, name, seed, quiet = class_names(classes), device_name(device), seed_of(seed), quiet_of(quiet)

    from lwexplain.adoption.adopt import adopt_network
    from lwexplain.adoption.source import source_of
    from lwexplain.analysis.adopted_subject import measure_network
    from lwexplain.data.batch_form import BatchForm
    from lwexplain.devices import pick_device
    from lwexplain.models.cost import device_of
    from lwexplain.models.foreign import check_model

    network = check_model(model)
    path = Path("runs") / type(network).__name__ if out is None else path_of("out", out)
    form = BatchForm.of(batch, mean, std)
    source = source_of(loaders, network, classes=own, form=form, max_samples=max_samples, seed=seed)
    return adopt_network(
        network,
        source,
        stages,
        path,
        device=pick_device(name) if name else device_of(network),
        final_norm=flag("final_norm", final_norm),
        replace=flag("replace", replace),
        finish=measure_network,
    )


def recommend(
    table: "pd.DataFrame | Run | str | Path",
    tolerance: float = 0.005,
    *,
    objective: str = "params",
    budgets: Mapping[str, float] | None = None,
    retrain: bool = True,
) -> "Recommendation":
    """Advice on depth from an analysis table or an analyzed run.

    The cheapest depth whose network, trained anew with that depth, is expected to lose no more than ``tolerance``
    against the best depth. For a run, the recommendation is also kept in ``analysis/recommendation.json``; a warning
    says where it cannot be. How often the advice is right was measured; see the page "How often the advice is right".

    Args:
        table: A table of ``lw.analyze`` or ``lw.analyze_model``, or an analyzed run or its directory.
        tolerance: Accuracy one is willing to lose, in [0, 1).
        objective: The cost that is to be smallest among the depths that are good enough: ``params``, ``flops``,
            ``latency`` or ``memory``; or ``accuracy`` for the most accurate depth.
        budgets: Bounds such as ``{"params": 1e6, "latency": 0.002}``: parameters, FLOPs, seconds, bytes, for one image.
        retrain: False asks where the trained network can be cut as it stands.

    Returns:
        The recommendation.

    Raises:
        AdviceError: The table lacks the evidence, nothing fits the budgets, or an option is out of range.
        RunError: The run is not analyzed, or its table is damaged.

    Examples:
        >>> advice = lw.recommend("runs/digits", tolerance=0.02)
        >>> advice.tolerance, advice.full_depth, len(advice.prospects)
        (0.02, 3, 3)
        >>> advice.depth_interval[0] <= advice.depth <= advice.depth_interval[1]
        True
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
    model: "nn.Module | None" = None,
    quiet: bool | None = None,
) -> "Exported":
    """Write the network of a trained run, cut at ``depth``, as ``.pt2`` or ONNX.

    The file holds normalisation, stages and head, takes images float32 (N, C, H, W) in [0, 1], returns logits (N, K)
    and needs no lwexplain. It is checked against the network and measured on test beside the full one. Nothing is left
    behind where anything fails.

    Args:
        run: A trained run or its directory.
        out: The file to write.
        depth: A stage, a number of stages, or ``auto`` for the recommended depth of an analyzed run.
        format: ``pt2`` or ``onnx``; by default told by the suffix of ``out``.
        head: ``local``, the one that the stage was trained with; ``fresh``, a linear one fitted on train and chosen on
            val; ``auto``, local where there is one.
        early_exit: Also write segments between which an image may leave, with thresholds calibrated on val.
        tolerance: As in ``lw.recommend``, for ``depth="auto"`` and for early exits.
        objective: As in ``lw.recommend``, for ``depth="auto"``.
        budgets: As in ``lw.recommend``, for ``depth="auto"``.
        device: Where to measure, by default where the run was trained.
        model: Of an adopted run, its network as it was adopted. The run that ``lw.adopt`` returned has it at hand.
        quiet: True shows no progress, False shows it; by default it is shown on a terminal.

    Returns:
        What was written: its path, and the figures of the shorter network and of the full one.

    Raises:
        AdviceError: The tolerance, the objective or a budget is out of range.
        ExportError: There is no depth to recommend, a format or head cannot be had, or the file does not do what the
            network does.
        ModelError: There is no such stage.
        RunError: The run is not trained or, with ``auto``, not analyzed, or its images are not those that it was
            trained on.
        DataError: The images are missing or unreadable.

    Examples:
        >>> exported = lw.export("runs/digits", "two_stages.pt2", depth=2)
        >>> exported.depth, exported.full_depth, exported.head
        (2, 3, 'local')
        >>> exported.short.parameters < exported.full.parameters
        True
    """
    from lwexplain.advice.question import Question
    from lwexplain.exporting.export import export_run

    question = Question(tolerance, objective, {} if budgets is None else budgets)
    return export_run(
        _with_network(run_of(run), model, device),
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
    """Write the self-contained HTML report of an analyzed run.

    Args:
        run: An analyzed run or its directory.
        out: The file to write, by default ``report.html`` in the run.

    Returns:
        The path of the report.

    Raises:
        RunError: The run has no readable analysis, or the file cannot be written.

    Examples:
        >>> lw.report("runs/digits", "digits.html").name
        'digits.html'
    """
    from lwexplain.views.report import write_report

    return write_report(run_of(run), None if out is None else path_of("out", out))


def compare(runs: "Sequence[Run | str | Path]", tolerance: float = 0.005) -> pd.DataFrame:
    """Put the recommendations of several analyzed runs side by side.

    Args:
        runs: Analyzed runs or their directories.
        tolerance: As in ``lw.recommend``.

    Returns:
        A row for each run: its name, data, model, strategy and training time, and the fields of its recommendation.

    Raises:
        RunError: A run is not analyzed.
        AdviceError: A table lacks the evidence for advice, or the tolerance is out of range.

    Examples:
        >>> lw.compare(["runs/digits", "runs/digits_bp"])[["run", "strategy"]].values.tolist()
        [['digits', 'greedy'], ['digits_bp', 'bp']]
    """
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


def _with_network(run: Run, model: "nn.Module | None", device: str | None) -> Run:
    """The run, of an adopted one with its network at hand where that was passed."""
    if model is None:
        return run
    from lwexplain.adoption.attach import attach
    from lwexplain.models.foreign import check_model

    return attach(run, check_model(model), own=False, device=device_name(device))


def _probes_to_run(probes: "list[str | Probe] | None") -> "list[str | Probe]":
    """The probes to run, all built-in ones for None; raises where one of them is none or is there twice, before the
    data is looked at."""
    from lwexplain.probes.base import PROBES
    from lwexplain.probes.engine import ALWAYS, default_probes
    from lwexplain.probes.hooks import name_as_asked

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
        names.append(name_as_asked(probe))
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

    The values are the unbiased estimates of centred kernel alignment (Kornblith et al. 2019), on val images of the
    first run. The runs may differ in everything but the shape of their images.

    Args:
        first: A trained run or its directory.
        second: Another one, or the same.
        max_samples: Most images to compare on, at least 4.
        device: Where to compute, by default where the runs were trained.

    Returns:
        A row for each pair of stages: ``stage, depth, other_stage, other_depth, cka_linear, cka_rbf``.

    Raises:
        RunError: A run is not trained, its images are not those that it was trained on, or the runs take images of
            different shapes.
        CaptureError: ``max_samples`` is below 4.
        DataError: The images are missing or unreadable.

    Examples:
        >>> table = lw.similarity("runs/digits", "runs/digits_bp", max_samples=100)
        >>> len(table)  # three stages of each
        9
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
