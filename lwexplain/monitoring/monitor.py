"""``lw.Monitor``: two lines in anybody's training loop, and every stage is looked at as the epochs go by."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from lwexplain.arguments import finite, flag, path_of, pooling_of, shown, whole_number
from lwexplain.data.batch_form import BatchForm
from lwexplain.errors import CaptureError, LwexplainError, LwexplainWarning, ModelError
from lwexplain.models.find_stages import find_stages
from lwexplain.models.foreign import check_model
from lwexplain.models.modules import undisturbed, unwrap
from lwexplain.models.token_reading import TokenReading
from lwexplain.monitoring.budget import Budget
from lwexplain.monitoring.live_run import LiveRun
from lwexplain.monitoring.look import Look, look_at
from lwexplain.monitoring.sample import Sample, take_sample
from lwexplain.monitoring.sinks import Sink
from lwexplain.processes import current_world
from lwexplain.run import Run

FEW, MANY = 64, 256
"""Images of the two trial looks from which the time of a look is foretold."""

LEAST_IMAGES = 200
LEAST_OF_A_CLASS = 4
"""A look sees at least so many images, of a class on average; where that takes too long it comes less often."""

SHARE = 0.05


class Monitor:
    """Looks at every stage of a network while a loop of your own trains it, and keeps what it sees in a run.

    Each ``step`` measures, on a fixed sample of val images, the accuracy of a linear probe and of the nearest class
    mean, the separability index, the effective rank, and the drift since the last look (1 - linear CKA). The numbers go
    to ``out``, an ordinary run directory that ``lwexplain explore`` shows while it grows, and to ``sink``. The training
    goes on bit for bit as without it.

    Probes are fitted on one half of the sample, every second image of each class, and scored on the other half; the
    linear probe is a multinomial logistic regression with C = 1.

    Looks take at most ``share`` of the training's time: the monitor measures how long an epoch takes, looks at fewer
    images where a look would take too long, and where even 200 images would, at fewer epochs.

    Args:
        model: The network that is trained, on its device; the monitor sees it as it is at each step.
        val_loader: Gives batches of images and labels that are not trained on. Read once, here.
        stages: Names of modules in running order, a regular expression, or ``auto``.
        out: The run directory to make.
        every: Look at every so many epochs, at most.
        share: The share of the training's time that looks may take, in (0, 1]; None for no limit.
        images: The most images that a look sees. At most a tenth as many classes are among them.
        batch: A function from a batch of any other form to (images, labels).
        mean: Of pixels in [0, 1], a value a channel, for a loader that gives uint8; images of floats are taken as they
            are.
        std: Likewise.
        pooling: How the features of a stage become one row an image, as for ``lw.analyze_model``.
        sink: A function of (numbers, step), a torch ``SummaryWriter``, or a wandb-compatible run or module, which gets
            the numbers too, named ``lwexplain/STAGE/METRIC``.
        resume: Go on with the run in ``out``, as after an interrupted training.

    Attributes:
        run: The run directory; None in other processes than the first of several.
        stages: Names of the stages in running order.
        overhead: Seconds of all looks as a share of the seconds of training between them.
        setup_seconds: What reading the loader and two trial looks took, once, at the start.

    Raises:
        CaptureError: A stage is not there, or the loader gives something else than images and labels of two classes.
        ModelError: The model is no module, or one that cannot be looked into.
        RunError: ``out`` is not empty, or with ``resume`` does not hold looks at these stages and images.
        UserCodeError: The model or the loader raised; its error is the cause.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> images, labels = torch.rand(80, 1, 8, 8), torch.arange(80) % 2
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> monitor = lw.Monitor(model, [(images[40:], labels[40:])], ["1", "2"], out="runs/live", share=None)
        >>> for epoch in range(2):
        ...     loss = nn.functional.cross_entropy(model(images[:40]), labels[:40])
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     numbers = monitor.step(epoch)
        >>> sorted(numbers["2"])
        ['cka_linear', 'drift', 'effective_rank', 'linear_probe_accuracy', 'ncm_accuracy', 'separability_index']
        >>> monitor.run.status, len(monitor.run.read_events())
        ('monitored', 4)
    """

    def __init__(
        self,
        model: nn.Module,
        val_loader: Iterable[Any],
        stages: str | Sequence[str] = "auto",
        *,
        out: str | Path,
        every: int = 1,
        share: float | None = SHARE,
        images: int = 1000,
        batch: Callable[[Any], Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pooling: str | Callable[[Tensor], Tensor] = "auto",
        sink: Any = None,
        resume: bool = False,
    ) -> None:
        self.every = whole_number("every", every, least=1)
        self.pooling = pooling_of(pooling, own=True)
        self.model = _network_of(check_model(model))
        self._sink = None if sink is None else Sink(sink)
        self._budget = Budget(_share_of(share))
        self._last: Look | None = None
        self._reading: TokenReading | None = None
        self._last_epoch: int | None = None
        self._images: int | None = None
        self._said: set[str] = set()
        self.setup_seconds = 0.0
        self.run: Run | None = None
        self.stages: list[str] = []
        folder, goes_on = path_of("out", out), flag("resume", resume)
        most = whole_number("images", images, least=20)
        if not current_world().is_main:
            return  # of several processes the first one looks
        self._sample = take_sample(val_loader, self.model, most, BatchForm.of(batch, mean, std))
        self.stages = self._try_out(_stages_to_look_at(self.model, self._sample, stages))
        settings = {"images": len(self._sample), "classes": self._sample.classes_seen, "every": self.every}
        if goes_on and folder.exists() and not Run.is_unfinished(folder):
            self._live = LiveRun.go_on(folder, self.stages, self._sample)
        else:
            self._live = LiveRun.make(folder, type(self.model).__name__, self.stages, self._sample, settings)
        self.run = self._live.run
        self.setup_seconds = self._budget.since()
        self._budget.start()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def overhead(self) -> float:
        """Seconds of all looks as a share of the seconds of training between them; NaN before any training."""
        return self._budget.overhead

    def step(
        self, epoch: int, *, force: bool = False, sink_step: int | None = None
    ) -> dict[str, dict[str, float]] | None:
        """Look at all stages, if it is time: to be called at the end of each epoch.

        A look that fails is told in a warning and never ends the training.

        Args:
            epoch: The number of the epoch that has ended.
            force: Look in any case, whatever it costs.
            sink_step: The step under which ``sink`` gets the numbers, by default the epoch.

        Returns:
            For each stage its numbers by name, or None where no look was taken.
        """
        number = whole_number("epoch", epoch, least=0, family=CaptureError)
        if self.run is None:
            return None
        self._wait_for_device()
        self._budget.pause()
        try:
            if not (force or self._is_time(number)):
                return None
            return self._look(number, number if sink_step is None else sink_step)
        except Exception as error:  # whatever is wrong with a look, the training matters more
            self._say(error, number)
            return None
        finally:
            self._budget.start()

    def close(self) -> None:
        """Say in the run that no more looks will come. Without it the run is whole, too."""
        if self.run is not None:
            self._live.end()

    # ------------------------------------------------------------------ one look

    def _is_time(self, epoch: int) -> bool:
        if self._last_epoch is not None and 0 <= epoch - self._last_epoch < self.every:
            return False
        return self._budget.allows(self._images_a_look())

    def _images_a_look(self) -> int:
        """How many images a look sees: settled by the first epoch, so that looks compare."""
        if self._images is None:
            least = max(LEAST_IMAGES, LEAST_OF_A_CLASS * len(self._sample.classes))
            self._images = self._budget.images_that_fit(least, len(self._sample), self.every)
        return self._images

    def _look(self, epoch: int, sink_step: int) -> dict[str, dict[str, float]]:
        sample = self._sample.first(self._images_a_look())
        look = look_at(self.model, sample, self.stages, pooling=self.pooling, last=self._last, reading=self._reading)
        seconds = self._budget.looked()
        self._last, self._last_epoch = look, epoch
        fitted = int(sample.fit.sum())
        self._live.write(
            epoch, look, fitted=fitted, images=len(sample), seconds=seconds, overhead=self._budget.overhead
        )
        found = {stage.stage: {number.metric: number.value for number in stage.numbers} for stage in look.stages}
        if self._sink is not None:
            named = {(s, m): value for s, numbers in found.items() for m, value in numbers.items()}
            self._sink({f"lwexplain/{s}/{m}": v for (s, m), v in named.items() if finite(v) is not None}, sink_step)
        return found

    def _say(self, error: Exception, epoch: int) -> None:
        text = str(error) if isinstance(error, LwexplainError) else f"{type(error).__name__}: {shown(str(error), 200)}"
        if text not in self._said:
            message = f"no look at epoch {epoch}: {text}; the training goes on"
            warnings.warn(message, LwexplainWarning, stacklevel=3)
        self._said.add(text)

    # ------------------------------------------------------------------ before the training

    def _try_out(self, stages: list[str]) -> list[str]:
        """Look at a few images, then at some more, timed; whatever is wrong shows now. The names of the stages."""
        classes, most = len(self._sample.classes), len(self._sample)
        few, many = (
            min(most, max(FEW, LEAST_OF_A_CLASS * classes)),
            min(most, max(MANY, 2 * LEAST_OF_A_CLASS * classes)),
        )
        seconds = []
        for n in (few, few, many):  # the first one warms up
            started = self._budget.since()
            look = look_at(self.model, self._sample.first(n), stages, pooling=self.pooling, reading=self._reading)
            self._reading = look.reading
            seconds.append(self._budget.since() - started)
        self._budget.expect(few, seconds[1], many, seconds[2])
        return [stage.stage for stage in look.stages]

    def _wait_for_device(self) -> None:
        """What the training has sent to an accelerator is the training's time, not that of the look."""
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _network_of(model: nn.Module) -> nn.Module:
    """The network inside its wrappers, of which those of several processes would keep a look by one waiting.

    Raises ModelError where the parameters are spread over processes: no process could run the network alone.
    """
    inner = unwrap(model)
    spread = any(type(part).__name__ == "FullyShardedDataParallel" for part in inner.modules())
    if spread or any(type(parameter).__name__ == "DTensor" for parameter in inner.parameters()):
        raise ModelError(
            "the parameters of the model are spread over several processes (FSDP), and lw.Monitor runs the network in "
            "one; train with DistributedDataParallel, or look at a checkpoint: lw.analyze_model"
        )
    return inner


def _stages_to_look_at(model: nn.Module, sample: Sample, asked: str | Sequence[str]) -> list[str]:
    """The names of the stages: those listed, or what is found for ``auto`` or an expression."""
    with undisturbed(model):
        return find_stages(model, sample.images[:1], asked)


def _share_of(value: Any) -> float | None:
    if value is None:
        return None
    number = finite(value)
    if number is None or not 0 < number <= 1:
        raise CaptureError(f"share is {shown(value)}; it must be a number above 0 and at most 1, or None for no limit")
    return number
