"""The training loop: the same recipe, data, log and checkpoints for every strategy."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lwexplain.config import Config
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits
from lwexplain.errors import CheckpointError, TrainingError, TrainingInterrupted
from lwexplain.models.build import build_model
from lwexplain.models.heads import HEADS
from lwexplain.models.staged import StagedModel
from lwexplain.progress import Progress
from lwexplain.run import Run
from lwexplain.training.checkpoint import (
    LAST,
    load_checkpoint,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from lwexplain.training.devices import peak_memory_bytes, pick_device
from lwexplain.training.evaluation import evaluate
from lwexplain.training.interruption import Interruption
from lwexplain.training.losses import LOSSES
from lwexplain.training.meter import Meter
from lwexplain.training.optimization import build_optimizer, learning_rate
from lwexplain.training.strategy import STRATEGIES, LossAt, Phase, Strategy

LOG_EVERY = 50
"""Steps between two readings of the loss; between them the step never waits for the device."""

StopRule = Callable[[list[Tensor]], str | None]
"""From which val samples (N,) bool each trained depth got right to the reason for stopping, or None to go on."""


@dataclass
class Position:
    """How far training has come: the next step to do."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    events_bytes: int = 0
    stopped: str | None = None


def build_trainable(config: Config, input_shape: tuple[int, ...], num_classes: int) -> StagedModel:
    """The model of a configuration with the heads its strategy needs, initialised from the seed."""
    model = build_model(config.model, input_shape, num_classes, config.seed)
    strategy: Strategy = STRATEGIES.create(config.training.strategy)
    shapes = model.feature_shapes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        for depth in strategy.head_depths(model):
            if not (model.own_tail and depth == model.depth):
                options = config.training.head_options
                head = HEADS.create(config.training.head, shapes[depth - 1], num_classes, options=options)
                model.set_head(depth, head)
    return model


class Trainer:
    """Trains the model of one run. It sees ``train`` and ``val`` only."""

    run: Run

    def __init__(self, config: Config, data: DataSplits, stop_rule: StopRule | None = None) -> None:
        recipe = config.training
        if recipe.stop == "auto" and recipe.strategy != "greedy":
            raise TrainingError("training.stop=auto needs training.strategy=greedy: only there stages come one by one")
        if min(config.data.batch_size, len(data.train)) < 2:
            raise TrainingError("batch normalisation needs two images in a batch; set data.batch_size to 2 or more")
        self.config, self.recipe, self.stop_rule = config, recipe, stop_rule
        self.device = pick_device(config.device)
        self.model = build_trainable(config, data.shape, data.num_classes)
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model.to(device=self.device, memory_format=memory_format)  # type: ignore[call-overload]
        self.strategy: Strategy = STRATEGIES.create(recipe.strategy)
        self.phases = self.strategy.phases(self.model)
        self.loss = LOSSES.create(
            recipe.loss, data.num_classes, options=recipe.loss_options, label_smoothing=recipe.label_smoothing
        )
        feed: dict[str, Any] = {
            "mean": data.mean,
            "std": data.std,
            "seed": config.seed,
            "device": self.device,
            "workers": config.data.workers,
            "channels_last": recipe.channels_last,
        }
        self.train_batches = Batches(
            data.train,
            config.data.batch_size,
            shuffle=True,
            drop_last=True,
            augment=config.data.augment,
            **feed,
        )
        self.val_batches = Batches(data.val, 4 * config.data.batch_size, **feed)
        self.position = Position()
        self.optimizer: torch.optim.Optimizer | None = None
        self.val_correct: dict[int, Tensor] = {}
        self.meter = Meter(0, self.device)
        self.interruption = Interruption()
        self.last_save = 0.0

    # ------------------------------------------------------------------ the loop

    def fit(self, run: Run, *, resume: bool = False, quiet: bool | None = None) -> None:
        """Train every phase into ``run``, from the start or from its last checkpoint.

        Raises TrainingError on a loss or weight that is not finite, TrainingInterrupted (after a checkpoint) on
        Ctrl-C or SIGTERM, and CheckpointError where there is nothing sound to resume from.
        """
        self.run = run
        self.last_save = time.perf_counter()
        if resume:
            self.restore()
        else:
            self.save()
        self.run.update(status="training", strategy=self.recipe.strategy, stages=self.model.names)
        steps = len(self.train_batches) * self.recipe.epochs
        with self.interruption, Progress("train", steps * len(self.phases), quiet=quiet) as progress:
            progress.advance(steps * self.position.phase + self._steps_into_phase())
            while self.position.phase < len(self.phases) and self.position.stopped is None:
                self._fit_phase(self.phases[self.position.phase], progress)
        self._finish()

    def _fit_phase(self, phase: Phase, progress: Progress) -> None:
        self._enter(phase)
        for epoch in range(self.position.epoch, self.recipe.epochs):
            if self.position.step == 0:
                self.meter = Meter(len(phase.heads), self.device)
            stopwatch, first_step, images_before = time.perf_counter(), self.position.step, self.meter.count
            key = self.position.phase * self.recipe.epochs + epoch
            progress.describe(f"{phase.name}  epoch {epoch + 1}/{self.recipe.epochs}")
            for images, labels, _ in self.train_batches.epoch(key, start=first_step):
                self._step(phase, images, labels)
                progress.advance()
                if self.position.step % LOG_EVERY == 0 or self.interruption.asked:
                    self._look_around(phase, progress)
            self._log_epoch(phase, self.meter.count - images_before, time.perf_counter() - stopwatch)
            self.position.epoch, self.position.step = epoch + 1, 0
            if epoch + 1 < self.recipe.epochs:
                self.save()
        self._leave(phase)

    def _step(self, phase: Phase, images: Tensor, labels: Tensor) -> None:
        """Forward, losses, backward, update; nothing here waits for the device."""
        assert self.optimizer is not None
        self._set_learning_rate(self._steps_into_phase())
        self.optimizer.zero_grad(set_to_none=True)
        for row, local in enumerate(self._losses(phase, images, labels)):
            local.value.backward()
            self.meter.add(row, local.value, local.logits, labels)
        self.optimizer.step()
        self.meter.count += len(labels)
        self.position.step += 1

    def _look_around(self, phase: Phase, progress: Progress) -> None:
        """Between steps, now and then: read the loss, save what is due, and stop where somebody has asked for it."""
        losses, accuracies = self._read_meter(phase)
        where = f"{phase.name}  epoch {self.position.epoch + 1}/{self.recipe.epochs}"
        progress.describe(f"{where}  loss {losses[-1]:.3f}  train acc {accuracies[-1]:.3f}")
        if self.interruption.asked or time.perf_counter() - self.last_save > self.recipe.checkpoint_seconds:
            self.save()
        if self.interruption.asked:
            raise TrainingInterrupted(
                f"interrupted in {where}; everything so far is saved: go on with {self.run.resume_command}"
            )

    # ------------------------------------------------------------------ phases

    def _enter(self, phase: Phase) -> None:
        """Freeze the prefix and make the optimizer, unless a checkpoint has just restored them."""
        if self.optimizer is None:
            self._prepare(phase)
        self.model.train()

    def _prepare(self, phase: Phase) -> None:
        self.model.freeze(phase.frozen)
        modules = [
            *self.model.body[phase.frozen : phase.depth],
            *(self.model.head(depth) for depth in phase.heads),
        ]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        self.optimizer = build_optimizer(parameters, self.recipe.optimizer)
        self.meter = Meter(len(phase.heads), self.device)

    def _leave(self, phase: Phase) -> None:
        """Keep the stage's own checkpoint, ask whether to go on, and step to the next phase."""
        self.optimizer = None
        self.position.phase += 1
        self.position.epoch = 0
        if len(self.phases) > 1:
            depth = phase.depth
            stage = with_prefix("stage", self.model.body[depth - 1].state_dict())
            head = with_prefix("head", self.model.head(depth).state_dict())
            path = self.run.checkpoints / f"stage_{depth:02d}.safetensors"
            save_checkpoint(path, stage | head, {"stage": phase.name, "depth": depth})
        if self.recipe.stop == "auto" and self.stop_rule and self.position.phase < len(self.phases):
            reason = self.stop_rule([self.val_correct[depth] for depth in sorted(self.val_correct)])
            if reason:
                self.position.stopped = reason
                self.run.append_event(event="stop", stage=phase.name, depth=phase.depth, reason=reason)
        self.save()

    def _finish(self) -> None:
        trained = self.phases[self.position.phase - 1].depth
        self.run.append_event(event="end", seconds=round(self.position.seconds, 3))
        files = sorted(self.run.checkpoints.glob("*.safetensors"))
        self.run.record_files(self.run.path / "config.yaml", self.run.events_path, *files)
        self.run.update(
            status="trained",
            trained_depth=trained,
            stopped=self.position.stopped,
            seconds=round(self.position.seconds, 3),
            progress=f"all of {trained} stages",
        )

    # ------------------------------------------------------------------ parts of a step

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _losses(self, phase: Phase, images: Tensor, labels: Tensor) -> Iterator[LossAt]:
        """The strategy's losses, each computed under autocast and handed over outside of it."""
        losses = self.strategy.losses(self.model, phase, images, labels, self.loss)
        while True:
            with self._autocast():
                local = next(losses, None)
            if local is None:
                return
            yield local

    def _set_learning_rate(self, step: int) -> None:
        assert self.optimizer is not None
        recipe = self.recipe
        lr = learning_rate(recipe.schedule, recipe.optimizer.lr, step, len(self.train_batches), recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _steps_into_phase(self) -> int:
        return self.position.epoch * len(self.train_batches) + self.position.step

    def _read_meter(self, phase: Phase) -> tuple[list[float], list[float]]:
        """Mean loss and accuracy of each head in this epoch so far; TrainingError where a loss is NaN or infinite."""
        losses, accuracies = self.meter.read()
        for depth, value in zip(phase.heads, losses, strict=True):
            if not math.isfinite(value):
                raise self._failure(f"the loss is {value}", self.model.names[depth - 1])
        return losses, accuracies

    def _failure(self, what: str, stage: str) -> TrainingError:
        """Record a failure in the log and in the manifest; the error to raise. The last good checkpoint stays."""
        where = f"{what} in stage {stage!r}, epoch {self.position.epoch + 1}, step {self.position.step}"
        self.run.append_event(event="failure", stage=stage, reason=where)
        self.run.update(status="failed", progress=where)
        return TrainingError(
            f"{where}; the last good checkpoint is kept in {self.run.checkpoints}. "
            "Train anew with a lower training.optimizer.lr, a warm-up or training.precision=fp32"
        )

    def _log_epoch(self, phase: Phase, images: int, seconds: float) -> None:
        """Evaluate the phase's heads on val and log a line for each; ``images`` were trained on in ``seconds``."""
        assert self.optimizer is not None
        losses, accuracies = self._read_meter(phase)
        results = evaluate(self.model, phase.heads, self.val_batches, self.loss, self._autocast())
        for depth, train_loss, train_accuracy in zip(phase.heads, losses, accuracies, strict=True):
            self.val_correct[depth] = results[depth].correct
            self.run.append_event(
                event="epoch",
                stage=self.model.names[depth - 1],
                depth=depth,
                epoch=self.position.epoch + 1,
                epochs=self.recipe.epochs,
                train_loss=round(train_loss, 6),
                train_accuracy=round(train_accuracy, 6),
                val_loss=round(results[depth].loss, 6),
                val_accuracy=round(results[depth].accuracy, 6),
                lr=self.optimizer.param_groups[0]["lr"],
                seconds=round(seconds, 3),
                images_per_second=round(images / seconds, 1),
                peak_memory_bytes=peak_memory_bytes(self.device),
            )

    # ------------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """Write ``last.safetensors``; raises TrainingError instead where a weight is not finite."""
        weights = self.model.state_dict()
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                phase = self.phases[min(self.position.phase, len(self.phases) - 1)]
                raise self._failure(f"weight {name} is not finite", phase.name)
        now = time.perf_counter()
        self.position.seconds += now - self.last_save
        self.last_save = now
        self.position.events_bytes = self.run.events_path.stat().st_size
        tensors = with_prefix("model", weights)
        tensors |= with_prefix("val_correct", {str(depth): hits for depth, hits in self.val_correct.items()})
        tensors |= with_prefix("meter", self.meter.tensors())
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        if self.optimizer is not None:
            tensors |= with_prefix("optimizer", optimizer_tensors(self.optimizer))
        state = {"position": asdict(self.position), "optimizer": self.optimizer is not None}
        save_checkpoint(self.run.checkpoints / LAST, tensors, state)
        self.run.write_json("checkpoints/last.json", state | {"file": LAST})
        if self.position.phase < len(self.phases):
            phase = self.phases[self.position.phase]
            progress = f"{phase.name}, epoch {self.position.epoch + 1} of {self.recipe.epochs}"
            self.run.update(progress=f"phase {self.position.phase + 1} of {len(self.phases)}: {progress}")

    def restore(self) -> None:
        """Go back to the last checkpoint: weights, optimizer, random state, log and position."""
        path = self.run.checkpoints / LAST
        tensors, state = load_checkpoint(path)
        try:
            self.position = Position(**state["position"])
            has_optimizer = state["optimizer"]
            load_weights(self.model, under_prefix("model", tensors), path)
            self.val_correct = {int(depth): hits for depth, hits in under_prefix("val_correct", tensors).items()}
            if self.position.phase < len(self.phases):
                phase = self.phases[self.position.phase]
                if has_optimizer:
                    self._prepare(phase)
                    assert self.optimizer is not None
                    load_optimizer(self.optimizer, under_prefix("optimizer", tensors))
                    self.meter.restore(under_prefix("meter", tensors))
            torch.set_rng_state(tensors["rng.cpu"])
            if "rng.cuda" in tensors and self.device.type == "cuda":
                torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"checkpoint {path} is not one of this trainer ({error!r}); train anew") from None
        with self.run.events_path.open("r+b") as file:  # what was logged after the checkpoint is done again
            file.truncate(self.position.events_bytes)
