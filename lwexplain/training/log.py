"""What a training writes down: a line for each epoch and head, the cost of each phase, and the sums at the end."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from lwexplain.devices import peak_memory_bytes
from lwexplain.errors import RunError, TrainingError
from lwexplain.processes import World
from lwexplain.run import Run
from lwexplain.training.evaluation import HeadResult
from lwexplain.training.prefix import LivePrefix, PrefixCache
from lwexplain.training.state import Position
from lwexplain.training.strategies.base import Phase


class TrainingLog:
    """Events and manifest of a run in training; in several processes only the first one writes."""

    def __init__(self, run: Run, world: World, stages: list[str], epochs: int, device: torch.device) -> None:
        self.run, self.world, self.stages, self.epochs, self.device = run, world, stages, epochs, device

    def event(self, **fields: Any) -> None:
        """Add a line to ``events.jsonl``."""
        if self.world.is_main:
            self.run.append_event(**fields)

    def update(self, **fields: Any) -> None:
        """Set fields of the manifest."""
        if self.world.is_main:
            self.run.update(**fields)

    def phase(self, phase: Phase, prefix: LivePrefix | PrefixCache, **costs: float) -> None:
        """What a step of a phase costs.

        ``parameters`` that learn (heads and losses included), ``activation_bytes``: peak of the bytes alive in a step
        of one process beyond weights, their gradients and the batch; ``step_flops`` of forward and backward pass for
        one image.
        """
        kept: dict[str, Any] = {}
        if isinstance(prefix, PrefixCache):
            kept = {"prefix_bytes": prefix.bytes, "prefix_place": sorted(prefix.places), "prefix_views": prefix.views}
        self.event(event="phase", stage=phase.name, depth=phase.depth, frozen=phase.frozen, **costs, **kept)

    def epoch(
        self,
        phase: Phase,
        position: Position,
        losses: list[float],
        accuracies: list[float],
        results: dict[int, HeadResult],
        *,
        lr: float,
        images: int,
        seconds: float,
    ) -> None:
        """A line for each head of the phase; ``images`` were trained on in ``seconds``."""
        for depth, train_loss, train_accuracy in zip(phase.heads, losses, accuracies, strict=True):
            self.event(
                event="epoch",
                stage=self.stages[depth - 1],
                depth=depth,
                epoch=position.epoch + 1,
                epochs=self.epochs,
                train_loss=round(train_loss, 6),
                train_accuracy=round(train_accuracy, 6),
                val_loss=round(results[depth].loss, 6),
                val_accuracy=round(results[depth].accuracy, 6),
                lr=lr,
                seconds=round(seconds, 3),
                images_per_second=round(images / seconds, 1),
                peak_memory_bytes=peak_memory_bytes(self.device),
            )

    def progress(self, phases: Sequence[Phase], position: Position) -> None:
        """Say in the manifest how far training has come; nothing where its last phase has ended."""
        if position.phase < len(phases):
            epoch = f"{phases[position.phase].name}, epoch {position.epoch + 1} of {self.epochs}"
            self.update(progress=f"phase {position.phase + 1} of {len(phases)}: {epoch}")

    def finite(
        self, losses: list[float], accuracies: list[float], phase: Phase, position: Position
    ) -> tuple[list[float], list[float]]:
        """Losses and accuracies as they are; TrainingError where a loss is NaN or infinite."""
        for depth, value in zip(phase.heads, losses, strict=True):
            if not math.isfinite(value):
                raise self.failure(f"the loss is {value}", self.stages[depth - 1], position)
        return losses, accuracies

    def failure(self, what: str, stage: str, position: Position) -> TrainingError:
        """Record a failure in the log and in the manifest; the error to raise. The last good checkpoint stays."""
        where = f"{what} in stage {stage!r}, epoch {position.epoch + 1}, step {position.step}"
        self.event(event="failure", stage=stage, reason=where)
        self.update(status="failed", progress=where)
        return TrainingError(
            f"{where}; the last good checkpoint is kept in {self.run.checkpoints}. "
            "Train anew with a lower training.optimizer.lr, a warm-up or training.precision=fp32"
        )

    def finish(self, trained: int, position: Position) -> None:
        """Close the log: files with their digests, status, and the sums of all costs."""
        if not self.world.is_main:
            return
        seconds = round(position.seconds, 3)
        self.event(event="end", seconds=seconds)
        names = self.run.files.file_names("checkpoints", ".safetensors")
        files = [self.run.checkpoints / name for name in names]
        self.run.record_files(self.run.path / "config.yaml", self.run.events_path, *files)
        self.run.update(
            status="trained",
            trained_depth=trained,
            stopped=position.stopped,
            seconds=seconds,
            progress=f"all of {trained} stages",
            costs=self._costs(),
        )

    def _costs(self) -> dict[str, Any]:
        """Sums of what the log holds: the largest memory, the seconds of each phase, the images a second."""
        try:
            return self._sums_of(self.run.read_events())
        except (KeyError, TypeError, ValueError, IndexError):
            raise RunError(
                f"{self.run.events_path} lacks lines of this training; the weights are in {self.run.checkpoints}, "
                "what they cost cannot be summed up: restore the log from a copy and resume"
            ) from None

    def _sums_of(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        phases = [event for event in events if event["event"] == "phase"]
        epochs = [event for event in events if event["event"] == "epoch"]
        by_phase: dict[str, float] = {}
        for phase in phases:
            lines = [line for line in epochs if phase["frozen"] < line["depth"] <= phase["depth"]]
            last = {line["epoch"]: line["seconds"] for line in lines if line["depth"] == phase["depth"]}
            by_phase[phase["stage"]] = round(sum(last.values()), 3)
        deepest = [line for line in epochs if line["depth"] == max(line["depth"] for line in epochs)]
        return {
            "seconds_by_phase": by_phase,
            "images_per_second": deepest[-1]["images_per_second"],
            "parameters_trained": sum(phase["parameters"] for phase in phases),
            "step_flops": sum(phase["step_flops"] for phase in phases),
            "activation_bytes": max(phase["activation_bytes"] for phase in phases),
            "peak_memory_bytes": max(line["peak_memory_bytes"] for line in epochs),
            "prefix_bytes": max(phase.get("prefix_bytes", 0) for phase in phases),
        }
