"""The training loop: the same recipe, data, log and checkpoints for every strategy."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lwexplain.config import Config
from lwexplain.data.batches import Batches
from lwexplain.data.dataset import DataSplits
from lwexplain.devices import pick_device, reset_peak_memory
from lwexplain.errors import TrainingError, TrainingInterrupted
from lwexplain.models.activations import ActivationMeter
from lwexplain.models.staged import detach
from lwexplain.processes import World
from lwexplain.progress import Progress
from lwexplain.run import Run
from lwexplain.training.build import (
    build_losses,
    build_trainable,
    check_recipe,
    check_smallest_part,
    place_modules,
    planned_phases,
)
from lwexplain.training.checkpoint import (
    BEST,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    under_prefix,
    with_prefix,
)
from lwexplain.training.evaluation import HeadResult, evaluate
from lwexplain.training.interruption import Interruption
from lwexplain.training.log import TrainingLog
from lwexplain.training.meter import Meter
from lwexplain.training.optimization import build_optimizer, learning_rate
from lwexplain.training.prefix import SHARE, LivePrefix, PrefixBatch, PrefixCache, views_for
from lwexplain.training.snapshot import Plan, restore_snapshot, save_snapshot
from lwexplain.training.state import BestWeights, RandomStates, TrainingState
from lwexplain.training.strategies.base import Phase, Span
from lwexplain.training.unit import LocalUnit, UnitResult

LOG_EVERY = 50
"""Steps between two readings of the loss; between them the step never waits for the device."""

StopRule = Callable[[list[Tensor]], str | None]
"""From which val samples (N,) bool each trained depth got right to the reason for stopping, or None to go on."""


class Trainer:
    """Trains the model of one run. It sees ``train`` and ``val`` only."""

    run: Run
    log: TrainingLog

    def __init__(
        self, config: Config, data: DataSplits, stop_rule: StopRule | None = None, world: World | None = None
    ) -> None:
        self.world = world or World()
        self.config, self.recipe, self.stop_rule = config, config.training, stop_rule
        batch = min(config.data.batch_size, len(data.train))
        check_recipe(self.recipe, batch, self.world)
        self.device = pick_device(config.device)
        self.model = build_trainable(config, data.shape, data.num_classes)
        self.phases = planned_phases(self.recipe, self.model)
        self.model.freeze(self.phases[0].frozen)
        check_smallest_part(self.model, self.recipe, batch, self.world)
        self.losses = build_losses(config, self.model, data)
        place_modules(self.recipe, self.model, self.losses, self.phases, self.device, self.world)
        feed: dict[str, Any] = {
            "mean": data.mean,
            "std": data.std,
            "seed": config.seed,
            "device": self.device,
            "workers": config.data.workers,
            "channels_last": self.recipe.channels_last,
        }
        size, augment, shard = config.data.batch_size, config.data.augment, (self.world.rank, self.world.size)
        self.train_batches = Batches(
            data.train, size, shuffle=True, drop_last=True, augment=augment, shard=shard, **feed
        )
        self.val_batches = Batches(data.val, 4 * size, shard=shard, **feed)
        self.state = TrainingState(
            self.model, self.losses, Meter([], self.world), RandomStates(self.world, self.device)
        )
        self.units: list[nn.Module] = []
        self.prefix: LivePrefix | PrefixCache = LivePrefix(self.model, 0, self.autocast)
        self.interruption = Interruption()
        self.last_save = self.epoch_began = 0.0

    # ------------------------------------------------------------------ the loop

    def fit(self, run: Run, *, resume: bool = False, quiet: bool | None = None) -> None:
        """Train every phase into ``run``, from the start or from its last checkpoint.

        Raises TrainingError on a loss or weight that is not finite, TrainingInterrupted (after a checkpoint) on
        Ctrl-C or SIGTERM, and CheckpointError where there is nothing sound to resume from.
        """
        self.run = run
        self.log = TrainingLog(run, self.world, self.model.names, self.recipe.epochs, self.device)
        self.last_save = time.perf_counter()
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), self.interruption:
            torch.manual_seed(self.config.seed + self.world.rank)
            if resume:
                restore_snapshot(self.state, run, self.world, self.plan, self._prepare_present_phase)
            else:
                self._tell_what_parts_change()
                self.save()
            self.log.update(status="training", strategy=self.recipe.strategy, stages=self.model.names)
            steps = len(self.train_batches) * self.recipe.epochs
            with Progress("train", steps * len(self.phases), quiet=quiet or not self.world.is_main or None) as progress:
                progress.advance(steps * self.state.position.phase + self._steps_into_phase())
                try:
                    while self.state.position.phase < len(self.phases) and self.state.position.stopped is None:
                        self._fit_phase(self.phases[self.state.position.phase], progress)
                finally:
                    self.units = []  # an error would hold them, and they the process group
        self.log.finish(self.phases[self.state.position.phase - 1].depth, self.state.position)

    def _fit_phase(self, phase: Phase, progress: Progress) -> None:
        self._enter(phase)
        for epoch in range(self.state.position.epoch, self.recipe.epochs):
            if self.state.position.step == 0:
                self.state.meter = self._new_meter()
            self.epoch_began = time.perf_counter() - self.state.position.epoch_seconds
            key = self.state.position.phase * self.recipe.epochs + epoch
            progress.describe(f"{phase.name}  epoch {epoch + 1}/{self.recipe.epochs}")
            for batch in self.prefix.training(self.train_batches, key, epoch, self.state.position.step):
                with self._measured(phase) if self._steps_into_phase() == 0 else nullcontext():
                    self._step(phase, batch)
                progress.advance()
                if self.state.position.step % LOG_EVERY == 0 or (self.interruption.asked and self.world.is_alone):
                    self._look_around(phase, progress)
            self._end_epoch(phase, time.perf_counter() - self.epoch_began)
            self.state.position.epoch, self.state.position.step, self.state.position.epoch_seconds = epoch + 1, 0, 0.0
            if epoch + 1 < self.recipe.epochs:
                self._save_and_stop_where_asked(due=self._is_save_due())
        self._leave(phase)

    def _step(self, phase: Phase, batch: PrefixBatch) -> None:
        """Forward, losses, backward, update; nothing here waits for the device."""
        assert self.state.optimizer is not None
        self._set_learning_rate(self._steps_into_phase())
        self.state.optimizer.zero_grad(set_to_none=True)
        for part, share, is_last in self._parts(batch):
            self._go_through_units(part, share, synchronise=is_last)
        self.state.optimizer.step()
        self.state.meter.count += self._images_a_step
        self.state.position.step += 1

    def _go_through_units(self, part: PrefixBatch, share: float, *, synchronise: bool) -> None:
        """Unit after unit: forward, its losses, backward; the next one starts from a detached state."""
        state, row = part.state, 0
        for unit in self.units:
            with nullcontext() if synchronise else cast(DistributedDataParallel, unit).no_sync():
                with self.autocast():
                    result: UnitResult = unit(state, part.labels, part.images)
                (share * result.loss).backward()
            for value, logits in zip(result.values, result.logits, strict=True):
                self.state.meter.add(row, value, logits, part.labels)
                row += 1
            state = detach(result.state)

    def _parts(self, batch: PrefixBatch) -> Iterator[tuple[PrefixBatch, float, bool]]:
        """The batch in ``training.accumulate`` parts, each with its share of the loss and whether it is the last one.

        DDP takes the mean of the gradients over the processes, so a share counts that many times.
        """
        parts = batch.split(self.recipe.accumulate)
        for number, part in enumerate(parts, start=1):
            share = len(part.labels) * self.world.size / self._images_a_step
            yield part, share, self.world.is_alone or number == len(parts)

    def _look_around(self, phase: Phase, progress: Progress) -> None:
        """Between steps, now and then: read the loss, save what is due, and stop where somebody has asked for it."""
        losses, accuracies = self.log.finite(*self.state.meter.read(), phase, self.state.position)
        where = f"{phase.name}  epoch {self.state.position.epoch + 1}/{self.recipe.epochs}"
        progress.describe(f"{where}  loss {losses[-1]:.3f}  train acc {accuracies[-1]:.3f}")
        self._save_and_stop_where_asked(due=self._is_save_due())

    def _is_save_due(self) -> bool:
        return time.perf_counter() - self.last_save > self.recipe.checkpoint_seconds

    def _save_and_stop_where_asked(self, *, due: bool = True) -> None:
        """Save where it is due in some process, and in any case before TrainingInterrupted stops all of them."""
        asked, due = self.world.any(self.interruption.asked, due)
        if asked or due:
            self.save()
        if asked and self.state.position.phase < len(self.phases):
            position = self.state.position
            where = f"{self.phases[position.phase].name}, epoch {position.epoch + 1} of {self.recipe.epochs}"
            processes = "" if self.world.is_alone else f"torchrun --nproc_per_node={self.world.size} -m "
            raise TrainingInterrupted(
                f"interrupted in {where}; everything so far is saved: go on with {processes}{self.run.resume_call}"
            )

    def _tell_what_parts_change(self) -> None:
        """Note in the log where ``training.accumulate`` makes a loss compare fewer samples than a batch has."""
        depths = [depth for depth, loss in self.losses.items() if loss.compares_samples]
        if self.recipe.accumulate > 1 and depths:
            self.log.event(
                event="compared_in_parts",
                stages=[self.model.names[depth - 1] for depth in depths],
                reason=f"training.loss={self.recipe.loss} compares samples with each other; with training.accumulate="
                f"{self.recipe.accumulate} it compares those of one part, a share of the batch",
            )

    # ------------------------------------------------------------------ phases

    def _enter(self, phase: Phase) -> None:
        """Make what the phase needs, unless a checkpoint has just restored it."""
        if self.state.optimizer is None:
            self.prepare(phase)
        self.model.train()
        reset_peak_memory(self.device)

    def _prepare_present_phase(self) -> None:
        self.prepare(self.phases[self.state.position.phase])

    def prepare(self, phase: Phase) -> None:
        """Freeze the prefix and keep its outputs; make the units, the optimizer and an empty meter."""
        self.model.freeze(phase.frozen)
        self.prefix = self._prefix_of(phase)
        self.units = [self._unit(span) for span in phase.spans]
        parameters = dict.fromkeys(parameter for unit in self.units for parameter in unit.parameters())
        if not any(parameter.requires_grad for parameter in parameters):
            raise TrainingError(
                f"{phase.name} has nothing to train: its stages and heads have no parameters, or share all of them "
                "with stages that are frozen by then; join stages (model.stages) or choose training.strategy=bp"
            )
        self.state.optimizer = build_optimizer(parameters, self.recipe.optimizer)
        self.state.meter = self._new_meter()

    def _unit(self, span: Span) -> nn.Module:
        unit: nn.Module = LocalUnit(self.model, span, self.losses, recompute=self.recipe.gradient_checkpointing)
        if not self.world.is_alone:
            parallel = DistributedDataParallel(unit)
            parallel.broadcast_buffers = False  # batch statistics are those of all processes anyway
            unit = parallel
        return cast(nn.Module, torch.compile(unit)) if self.recipe.compile else unit

    def _prefix_of(self, phase: Phase) -> LivePrefix | PrefixCache:
        """The frozen stages' outputs from the cache, deepened to this phase, or live where there is none."""
        where = self.recipe.prefix_cache
        if phase.frozen == 0 or where == "off" or self.state.position.live_prefix:
            return LivePrefix(self.model, phase.frozen, self.autocast)
        cache = self.prefix
        if not isinstance(cache, PrefixCache):
            cache = PrefixCache(
                self.model,
                self.train_batches.in_order(self.val_batches.batch_size),
                self.val_batches.in_order(self.val_batches.batch_size),
                self.autocast,
                views=views_for(self.recipe.epochs, self.recipe.prefix_views),
                place=None if where == "auto" else where,
                folder=self.run.path,
                keep_images=any(loss.uses_images for loss in self.losses.values()),
                share=SHARE / self.world.size,
            )
        reason = None
        try:
            cache.deepen(phase.frozen)
        except TrainingError as error:
            reason = str(error)
        if not self.world.any(reason is not None)[0]:
            return cache
        reason = reason or "another process has no room for its prefix cache"
        if where != "auto":
            raise TrainingError(reason)
        self.state.position.live_prefix = True
        self.log.event(event="no_prefix_cache", stage=phase.name, reason=reason)
        return LivePrefix(self.model, phase.frozen, self.autocast)

    def _leave(self, phase: Phase) -> None:
        """Keep the stage's own checkpoint, ask whether to go on, and step to the next phase."""
        if self.recipe.keep == "best":
            self._go_back_to_best(phase)
        self.state.optimizer = None
        self.units = []
        self.state.position.phase += 1
        self.state.position.epoch = 0
        self.state.position.best_accuracy = None
        if len(self.phases) > 1 and self.world.is_main:
            depth = phase.depth
            stage = with_prefix("stage", self.model.body[depth - 1].state_dict())
            head = with_prefix("head", self.model.head(depth).state_dict())
            path = self.run.checkpoints / f"stage_{depth:02d}.safetensors"
            save_checkpoint(path, stage | head, {"stage": phase.name, "depth": depth})
        if self.recipe.stop == "auto" and self.stop_rule and self.state.position.phase < len(self.phases):
            reason = self.stop_rule([self.state.val_correct[depth] for depth in sorted(self.state.val_correct)])
            if reason:
                self.state.position.stopped = reason
                self.log.event(event="stop", stage=phase.name, depth=phase.depth, reason=reason)
        self._save_and_stop_where_asked()

    def _end_epoch(self, phase: Phase, seconds: float) -> None:
        """Evaluate the phase's heads on val, log a line for each, and keep the weights if they are the best so far."""
        training = self.log.finite(*self.state.meter.read(), phase, self.state.position)
        results = self._evaluate(phase)
        self.state.val_correct |= {depth: result.correct for depth, result in results.items()}
        lr = self._learning_rate(self._steps_into_phase() - 1)
        self.log.epoch(
            phase, self.state.position, *training, results, lr=lr, images=self.state.meter.count, seconds=seconds
        )
        accuracy = results[phase.depth].accuracy
        if self.state.position.best_accuracy is None or accuracy > self.state.position.best_accuracy:
            self.state.position.best_accuracy = accuracy
            found = {"phase": phase.name, "epoch": self.state.position.epoch + 1, "val_accuracy": accuracy}
            self.state.best = BestWeights(
                {k: v.to("cpu", copy=True) for k, v in self.model.state_dict().items()}, found
            )

    def _go_back_to_best(self, phase: Phase) -> None:
        """Put the weights of the epoch with the best val accuracy back, and what they got right."""
        path = self.run.checkpoints / BEST
        weights = self.state.best.weights if self.state.best else under_prefix("model", load_checkpoint(path)[0])
        load_weights(self.model, weights, path)
        self.state.val_correct |= {depth: result.correct for depth, result in self._evaluate(phase).items()}

    def _evaluate(self, phase: Phase) -> dict[int, HeadResult]:
        batches = self.prefix.validation(self.val_batches)
        size = len(self.val_batches.images)
        return evaluate(self.model, phase.heads, batches, size, phase.frozen, self.losses, self.autocast(), self.world)

    @contextmanager
    def _measured(self, phase: Phase) -> Iterator[None]:
        """Log what the first step of a phase costs in memory and operations, eagerly even where it is compiled."""
        parameters = [parameter for unit in self.units for parameter in unit.parameters()]
        eager = torch.compiler.set_stance("force_eager") if self.recipe.compile else nullcontext()
        with eager, ActivationMeter(parameters) as meter:
            yield
        self.log.phase(
            phase,
            self.prefix,
            parameters=sum(parameter.numel() for parameter in parameters),
            activation_bytes=meter.peak_bytes,
            step_flops=meter.flops / self._images_a_step * self.world.size,
        )

    # ------------------------------------------------------------------ parts of a step

    @property
    def plan(self) -> Plan:
        """How long this training goes on."""
        recipe, n = self.recipe, len(self.val_batches.images)
        return Plan(len(self.phases), recipe.epochs, len(self.train_batches), n, recipe.keep == "best")

    @property
    def _images_a_step(self) -> int:
        """Images in a global batch."""
        return min(self.train_batches.batch_size, len(self.train_batches.images))

    def autocast(self) -> torch.autocast:
        """The precision of forward pass and loss."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _new_meter(self) -> Meter:
        phase = self.phases[self.state.position.phase]
        devices = [pick_device(span.device) if span.device else self.device for span in phase.spans for _ in span.heads]
        return Meter(devices, self.world)

    def _set_learning_rate(self, step: int) -> None:
        assert self.state.optimizer is not None
        for group in self.state.optimizer.param_groups:
            group["lr"] = self._learning_rate(step)

    def _learning_rate(self, step: int) -> float:
        recipe = self.recipe
        return learning_rate(recipe.schedule, recipe.optimizer.lr, step, len(self.train_batches), recipe.epochs)

    def _steps_into_phase(self) -> int:
        return self.state.position.epoch * len(self.train_batches) + self.state.position.step

    def save(self) -> None:
        """Write ``last.safetensors``; raises TrainingError instead where a weight is not finite."""
        now = time.perf_counter()
        self.state.position.seconds += now - self.last_save
        if self.state.position.step:
            self.state.position.epoch_seconds = now - self.epoch_began
        self.last_save = now
        self._require_finite_weights()
        save_snapshot(self.state, self.run, self.world)
        self.log.progress(self.phases, self.state.position)

    def _require_finite_weights(self) -> None:
        name = self.state.weight_that_is_not_finite()
        if name is not None:
            phase = self.phases[min(self.state.position.phase, len(self.phases) - 1)]
            raise self.log.failure(f"weight {name} is not finite", phase.name, self.state.position)
