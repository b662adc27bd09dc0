"""``LayerMonitorCallback``: lw.Monitor as a callback of the Trainer of transformers."""

from collections.abc import Iterable
from typing import Any

from lwexplain.errors import CaptureError, LwexplainError
from lwexplain.monitoring.monitor import Monitor

try:
    from transformers import TrainerCallback
except ImportError:
    raise LwexplainError(
        "LayerMonitorCallback needs transformers; install it with: pip install 'lwexplain[transformers]'"
    ) from None


class LayerMonitorCallback(TrainerCallback):
    """Looks at every stage of the network at the end of each training epoch, as ``lw.Monitor`` does.

    In training on several processes the first one looks.

    Args:
        val_loader: Gives batches of images and labels, also as dicts of ``pixel_values`` and ``labels``. By default the
            eval loader of the Trainer, which is known from its first evaluation on; looks begin then.
        options: ``out``, ``stages``, ``sink`` and the others of ``lw.Monitor``. Numbers get the Trainer's
            ``global_step``.

    Attributes:
        monitor: The ``lw.Monitor`` at work, None before it begins.

    Examples:
        >>> from lwexplain.integrations.transformers import LayerMonitorCallback  # doctest: +SKIP
        >>> Trainer(model, args, callbacks=[LayerMonitorCallback(val_loader, out="runs/live")])  # doctest: +SKIP
    """

    def __init__(self, val_loader: Iterable[Any] | None = None, **options: Any) -> None:
        if "out" not in options:
            raise CaptureError("LayerMonitorCallback needs out=, the run directory to make, such as out='runs/live'")
        self.val_loader, self.options = val_loader, options
        self.monitor: Monitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Begin, where there is a loader."""
        self._begin(given["model"], self.val_loader)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Look at the end of the epoch."""
        self._step(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Begin, where the loader is known only now, and look at the epoch that has ended."""
        if self.monitor is None and state.epoch:  # an evaluation before the training has no epoch
            self._begin(given["model"], given.get("eval_dataloader"))
            self._step(state, force=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Say in the run that the training is over."""
        if self.monitor is not None:
            self.monitor.close()

    def _begin(self, model: Any, loader: Iterable[Any] | None) -> None:
        if self.monitor is None and loader is not None:
            self.monitor = Monitor(model, loader, **self.options)

    def _step(self, state: Any, *, force: bool = False) -> None:
        if self.monitor is not None:
            self.monitor.step(max(1, round(state.epoch)), force=force, sink_step=state.global_step)
