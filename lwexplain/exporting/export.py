"""Export: the network of a run, cut at a depth, as a checked and measured file."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lwexplain.advice.question import Question
from lwexplain.advice.recommend import Recommendation, recommend
from lwexplain.errors import ExportError
from lwexplain.exporting.adopted_source import AdoptedSource
from lwexplain.exporting.early_exit import calibrated_policy
from lwexplain.exporting.exit_files import EarlyExit, ExitFiles, write_exits
from lwexplain.exporting.figures import Accuracy, NetworkFigures, count_right, eager_logits
from lwexplain.exporting.formats import Runner, format_of, open_network, require_packages, write_network
from lwexplain.exporting.fresh_head import heads_after
from lwexplain.exporting.parity import parity, require_parity
from lwexplain.exporting.shorter_network import ShorterNetwork, StageHead, portable
from lwexplain.exporting.source import ExportSource, TrainedSource, depth_of
from lwexplain.models.cost import measure_costs
from lwexplain.progress import Progress
from lwexplain.results import read_metrics
from lwexplain.run import Run
from lwexplain.run.files import atomic_path
from lwexplain.training.trained import open_trained
from lwexplain.version import VERSION


@dataclass(frozen=True)
class Exported:
    """A written network and what it reaches.

    ``short`` is the written network, its test accuracy measured with the file itself; ``full`` the run's network at the
    full depth with its own head, on the same images. Latencies of both were measured in turns on ``device``. ``parity``
    is the largest absolute difference of logits between file and network by batch size; ``bytes`` the size of the file.
    ``verdict``, ``reason`` and the accuracy to expect (with its interval) are those of the recommendation where that
    chose the depth, ``early_exit`` is there where it was asked for.
    """

    path: str
    format: str
    bytes: int
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    short: NetworkFigures
    full: NetworkFigures
    parity: dict[int, float]
    device: str
    head_note: str
    verdict: str | None
    reason: str | None
    expected_accuracy: float | None
    expected_accuracy_interval: tuple[float, float] | None
    early_exit: EarlyExit | None

    @property
    def stage(self) -> str:
        """The last stage of the written network."""
        return self.short.stage

    @property
    def depth(self) -> int:
        """Number of stages of the written network."""
        return self.short.depth

    @property
    def full_depth(self) -> int:
        """Number of trained stages of the run."""
        return self.full.depth

    @property
    def head(self) -> str:
        """``local`` or ``fresh``."""
        return self.short.head

    def to_dict(self) -> dict[str, Any]:
        """All fields and ``stage``, ``depth``, ``full_depth`` and ``head`` as plain values."""
        about = {"stage": self.stage, "depth": self.depth, "full_depth": self.full_depth, "head": self.head}
        return about | asdict(self)


def export_run(
    run: Run | str | Path,
    out: str | Path,
    *,
    depth: int | str = "auto",
    format: str | None = None,
    head: str = "auto",
    early_exit: bool = False,
    question: Question | None = None,
    device: str | None = None,
    quiet: bool | None = None,
) -> Exported:
    """Write the network of a trained run, cut at ``depth``, to ``out`` and say what it reaches and costs.

    The file takes images float32 (N, C, H, W) with pixel values in [0, 1] and returns logits (N, K); it needs
    torch alone (``pt2``) or onnxruntime alone (``onnx``). ``depth`` is a stage name, a number of stages, or ``auto``:
    the answer to ``question`` (the usual one where none is given) for an analyzed run, cut as it stands.
    ``format`` is by default told by the suffix. ``head``: ``local``, the one that the stage was trained with;
    ``fresh``, a linear one fitted on train and chosen on val; ``auto``, local where there is one. With ``early_exit``
    the network is also written in segments beside ``out`` (``net.exit1.onnx``, ..., ``net.exits.json``), between which
    a sample may leave; thresholds are calibrated on val for the least mean FLOPs within the tolerance of the question
    of the accuracy at ``depth``.

    Nothing is left behind where anything fails. Raises ExportError (no depth to recommend, a format or head that cannot
    be had, a file that does not do what the network does), ModelError for a stage that is not there, RunError for a run
    that is not trained or, with ``auto``, not analyzed, and what reading the data raises.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    run.require_trained()
    out = Path(out)
    file_format = format_of(out, format)
    require_packages(file_format)
    if out.is_dir():
        raise ExportError(f"{out} is a folder; name the file to write, such as {out / f'network.{file_format}'}")
    asked = replace(question or Question(), retrain=False)  # the network is cut as it stands
    advice = _advised(run, asked) if depth == "auto" else None
    with Progress("export", 4, quiet=quiet) as progress:

        def tell(what: str, done: int) -> None:
            progress.describe(f"export: {what}")
            progress.move_to(done, 4)

        tell("loading", 0)
        source = open_source(run, device)
        cut = depth_of(source.model, advice.depth if advice is not None and advice.depth is not None else depth)
        tell("heads", 1)
        heads = _heads(source, cut, head, early_exit)
        policy = None
        if early_exit:
            val = source.pixels("val")
            policy = calibrated_policy(source.staged, heads, source.normalisation, val, asked.tolerance)
        tell("writing", 2)
        with ExitStack() as pending:
            written = _write(pending, source, heads[-1], out, file_format)
            exits = None
            if policy is not None:
                about = _metadata(source, heads[-1])
                exits = write_exits(
                    pending, policy, source.staged, source.normalisation, source.some_images, out, file_format, about
                )
            tell("measuring", 3)
            return _measured(source, heads[-1], written, exits, out, file_format, advice, asked.tolerance)


def open_source(run: Run, device: str | None) -> ExportSource:
    """Weights and images of a run; raises what ``open_trained`` and ``AdoptedSource`` raise."""
    return AdoptedSource(run) if run.is_adopted else TrainedSource(open_trained(run, device))


def _advised(run: Run, question: Question) -> Recommendation:
    """The recommendation for an analyzed run; raises ExportError where it names no depth."""
    advice = recommend(read_metrics(run), question)
    if advice.depth is None:
        raise ExportError(f"{advice.reason} Name a stage to cut {run.path} at in place of auto")
    return advice


def _heads(source: ExportSource, depth: int, kind: str, early_exit: bool) -> list[StageHead]:
    """The head at ``depth``, the last one; with ``early_exit`` after those of the stages before it."""
    depths = [depth]
    if early_exit:
        own = kind == "local"
        depths = [d for d in range(1, depth + 1) if d == depth or not own or d in source.model.head_depths]
    if early_exit and len(depths) < 2:
        raise ExportError(
            f"early exit needs heads at two depths or more up to {source.model.names[depth - 1]!r}; "
            "cut at a deeper stage, or use head=fresh or head=auto, which fit the heads that are missing"
        )
    return heads_after(source, depths, kind)


@dataclass(frozen=True)
class _Written:
    """The shorter network's file as a function, its size, and its parity."""

    run: Runner
    bytes: int
    parity: dict[int, float]


def _write(pending: ExitStack, source: ExportSource, head: StageHead, out: Path, file_format: str) -> _Written:
    """Write the shorter network and check it; it takes its name when ``pending`` ends without error."""
    network = portable(ShorterNetwork(source.model, head, source.normalisation))
    images = source.some_images
    temporary = pending.enter_context(atomic_path(out))
    write_network(
        network,
        [images[:2]],
        temporary,
        file_format,
        input_names=["images"],
        output_names=["logits"],
        metadata=_metadata(source, head),
    )
    written = open_network(temporary, file_format)
    differences = parity(lambda batch: written(batch)[0], network, images)
    require_parity(differences, str(out))
    apart = {size: difference.value for size, difference in differences.items()}
    return _Written(written, temporary.stat().st_size, apart)


def _metadata(source: ExportSource, head: StageHead) -> dict[str, Any]:
    return {
        "classes": source.classes,
        "image_shape": list(source.shape),
        "value_range": None if source.value_range is None else list(source.value_range),
        "stage": source.model.names[head.depth - 1],
        "depth": head.depth,
        "full_depth": source.model.depth,
        "head": head.kind,
        "data": source.data_name,
        "made_with": f"lwexplain {VERSION}",
    }


def _measured(
    source: ExportSource,
    head: StageHead,
    written: _Written,
    exits: ExitFiles | None,
    out: Path,
    file_format: str,
    advice: Recommendation | None,
    tolerance: float,
) -> Exported:
    """Read test once, through the written files and the full network alike, and put the figures together."""
    model = source.model
    short_network, full_network = ShorterNetwork(model, head, source.normalisation), source.full
    right = {"short": 0, "full": 0, "exits": 0}
    left_at = []
    for images, labels in source.pixels("test"):
        right["short"] += count_right(written.run(images)[0], labels)
        right["full"] += count_right(eager_logits(full_network, images, source.device), labels)
        if exits is not None:
            logits, places = exits.classify(images)
            right["exits"] += count_right(logits, labels)
            left_at.append(places)
    n = source.size("test")
    short_cost, full_cost = measure_costs([short_network, full_network], source.shape)
    short, full = (
        NetworkFigures.of(model.names[depth - 1], depth, kind, Accuracy.of(right[which], n), cost)
        for which, depth, kind, cost in (
            ("short", head.depth, head.kind, short_cost),
            ("full", model.depth, "local", full_cost),
        )
    )
    early = None
    if exits is not None:
        early = exits.figures(right["exits"], np.concatenate(left_at), tolerance, short.flops)
    return Exported(
        path=str(out),
        format=file_format,
        bytes=written.bytes,
        classes=tuple(source.classes),
        image_shape=source.shape,
        short=short,
        full=full,
        parity=written.parity,
        device=str(source.device),
        head_note=head.note,
        verdict=advice.verdict if advice is not None else None,
        reason=advice.reason if advice is not None else None,
        expected_accuracy=advice.expected_accuracy if advice is not None else None,
        expected_accuracy_interval=advice.expected_accuracy_interval if advice is not None else None,
        early_exit=early,
    )
