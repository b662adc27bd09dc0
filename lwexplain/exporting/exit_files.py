"""The segments of a network with early exits as files: written, checked, run, and measured on test."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.exporting.early_exit import Policy
from lwexplain.exporting.figures import Accuracy
from lwexplain.exporting.formats import Runner, open_network, write_network
from lwexplain.exporting.parity import parity, require_parity
from lwexplain.exporting.shorter_network import portable
from lwexplain.exporting.thresholds import shares_of
from lwexplain.models.staged import StagedModel
from lwexplain.run.files import atomic_path

RULE = (
    "Run the files in this order: images into the first, into each later one the states that the file before returned "
    "after its logits. A sample leaves at the first file whose largest softmax probability reaches the threshold; "
    "whatever reaches the last one, whose threshold is 0, leaves there."
)


@dataclass(frozen=True)
class Exit:
    """One exit: the ``file`` of its segment (``bytes`` large), the confidence from which samples leave there, the share
    of test samples that do, and the FLOPs of one image up to there, the heads on the way included."""

    stage: str
    depth: int
    head: str
    threshold: float
    test_share: float
    flops: int
    file: str
    bytes: int


@dataclass(frozen=True)
class EarlyExit:
    """The network with early exits, measured with the written files.

    ``index_file`` is JSON with the order of the files and the thresholds, which were calibrated on val, where they gave
    ``val_accuracy``. ``test_mean_flops`` is the mean over test images, ``flops_of_chosen_depth`` what each of them
    costs without early exits. ``parity`` is the largest difference of logits over all exits by batch size.
    """

    exits: tuple[Exit, ...]
    index_file: str
    tolerance: float
    val_accuracy: float
    test_accuracy: Accuracy
    test_mean_flops: float
    flops_of_chosen_depth: int
    parity: dict[int, float]


@dataclass(frozen=True)
class ExitFiles:
    """Segments that are written and checked: their files, their functions, and what is known without test."""

    policy: Policy
    stages: tuple[str, ...]
    index: Path
    files: tuple[Path, ...]
    sizes: tuple[int, ...]
    runners: tuple[Runner, ...]
    parity: dict[int, float]

    def classify(self, images: Tensor) -> tuple[Tensor, np.ndarray]:
        """Logits (N, K) and the exit (N,) of each of ``images``, run through the written files."""
        return run_segments(self.runners, self.policy.thresholds, images)

    def figures(self, right: int, exits: np.ndarray, tolerance: float, flops_of_chosen_depth: int) -> EarlyExit:
        """What came out on test: ``right`` samples out of those that left at ``exits`` (N,)."""
        shares = shares_of(exits, len(self.files))
        described = tuple(
            Exit(stage, head.depth, head.kind, threshold, share, flops, str(file), size)
            for stage, head, threshold, share, flops, file, size in zip(
                self.stages,
                self.policy.heads,
                self.policy.thresholds,
                shares,
                self.policy.flops,
                self.files,
                self.sizes,
                strict=True,
            )
        )
        return EarlyExit(
            exits=described,
            index_file=str(self.index),
            tolerance=tolerance,
            val_accuracy=self.policy.val_accuracy,
            test_accuracy=Accuracy.of(right, len(exits)),
            test_mean_flops=float(np.array(self.policy.flops)[exits].mean()),
            flops_of_chosen_depth=flops_of_chosen_depth,
            parity=self.parity,
        )


def write_exits(
    pending: ExitStack,
    policy: Policy,
    model: StagedModel,
    normalisation: nn.Module,
    images: Tensor,
    out: Path,
    file_format: str,
    metadata: Mapping[str, Any],
) -> ExitFiles:
    """Write a segment for each exit and the JSON that says how to run them, and check them on ``images`` of val.

    The files take their names when ``pending`` ends without error. Raises ExportError where a segment cannot be written
    or its logits differ from the network's.
    """
    stages = tuple(model.names[head.depth - 1] for head in policy.heads)
    index, files = index_path(out), tuple(segment_path(out, place) for place in range(1, len(stages) + 1))
    index_temporary = pending.enter_context(atomic_path(index))
    segments = [portable(segment) for segment in policy.segments(model, normalisation)]
    temporaries = [pending.enter_context(atomic_path(file)) for file in files]
    state = [images[:2]]
    for place, (segment, temporary) in enumerate(zip(segments, temporaries, strict=True)):
        outputs = _tensors(segment(*state))
        names = {
            "input_names": ["images"] if place == 0 else [f"state{part}" for part in range(len(state))],
            "output_names": ["logits", *(f"next_state{part}" for part in range(len(outputs) - 1))],
        }
        own = {"stage": stages[place], "depth": policy.heads[place].depth, "threshold": policy.thresholds[place]}
        write_network(segment, state, temporary, file_format, metadata={**metadata, **own}, **names)
        state = outputs[1:]
    runners = tuple(open_network(temporary, file_format) for temporary in temporaries)
    eager = [lambda *state, segment=segment: _tensors(segment(*state)) for segment in segments]
    differences = parity(lambda batch: all_logits(runners, batch), lambda batch: all_logits(eager, batch), images)
    require_parity(differences, "the network written in segments")
    index_temporary.write_text(_index_text(policy, stages, files, metadata), encoding="utf-8")
    sizes = tuple(temporary.stat().st_size for temporary in temporaries)
    apart = {size: difference.value for size, difference in differences.items()}
    return ExitFiles(policy, stages, index, files, sizes, runners, apart)


def run_segments(segments: Sequence[Runner], thresholds: Sequence[float], images: Tensor) -> tuple[Tensor, np.ndarray]:
    """Logits (N, K) of the exit that each of ``images`` leaves at, and the place of that exit (N,).

    Only what has not left yet is handed on.
    """
    state = [images]
    waiting = torch.arange(len(images))
    places = np.zeros(len(images), dtype=np.int64)
    logits: Tensor | None = None
    for place, (segment, threshold) in enumerate(zip(segments, thresholds, strict=True)):
        scores, *state = segment(*state)
        logits = torch.empty(len(images), scores.shape[1]) if logits is None else logits
        leaves = scores.softmax(1).amax(1).double() >= threshold
        logits[waiting[leaves]] = scores[leaves]
        places[waiting[leaves].numpy()] = place
        waiting, state = waiting[~leaves], [part[~leaves] for part in state]
        if len(waiting) == 0:
            break
    assert logits is not None
    return logits, places


def all_logits(segments: Sequence[Runner], images: Tensor) -> Tensor:
    """Logits (N, E, K) of every exit, no sample leaving early."""
    state, found = [images], []
    for segment in segments:
        scores, *state = segment(*state)
        found.append(scores)
    return torch.stack(found, dim=1)


def _tensors(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _index_text(policy: Policy, stages: Sequence[str], files: Sequence[Path], metadata: Mapping[str, Any]) -> str:
    exits = [
        {
            "file": file.name,
            "stage": stage,
            "depth": head.depth,
            "head": head.kind,
            "threshold": threshold,
            "flops": flops,
        }
        for file, stage, head, threshold, flops in zip(
            files, stages, policy.heads, policy.thresholds, policy.flops, strict=True
        )
    ]
    return json.dumps({"rule": RULE, "exits": exits, **metadata}, indent=2, ensure_ascii=False) + "\n"


def segment_path(out: Path, number: int) -> Path:
    """``net.onnx`` -> ``net.exit1.onnx``."""
    return out.with_name(f"{out.stem}.exit{number}{out.suffix}")


def index_path(out: Path) -> Path:
    """``net.onnx`` -> ``net.exits.json``."""
    return out.with_name(f"{out.stem}.exits.json")
