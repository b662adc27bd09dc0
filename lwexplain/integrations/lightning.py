"""``LayerMonitor``: lw.Monitor as a callback of Lightning, under the name ``lightning`` or ``pytorch_lightning``."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from lwexplain.arguments import shown
from lwexplain.errors import CaptureError, LwexplainError, ModelError
from lwexplain.monitoring.monitor import Monitor

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback  # type: ignore[assignment]
    except ImportError:
        raise LwexplainError(
            "LayerMonitor needs Lightning; install it with: pip install 'lwexplain[lightning]'"
        ) from None


class LayerMonitor(Callback):
    """Looks at every stage of the network at the end of each training epoch, as ``lw.Monitor`` does.

    In training on several processes the first one looks.

    Args:
        val_loader: Gives batches of images and labels; by default the first val loader of the trainer.
        network: The attribute of the LightningModule that is the network, such as ``"model"`` or ``"net.backbone"``; by
            default the module itself.
        sink: As for ``lw.Monitor``; ``"logger"`` for the first logger of the trainer. Numbers get the trainer's
            ``global_step``.
        options: ``out``, ``stages`` and the others of ``lw.Monitor``.

    Attributes:
        monitor: The ``lw.Monitor`` at work, None before the training begins.

    Examples:
        >>> from lightning.pytorch import Trainer  # doctest: +SKIP
        >>> from lwexplain.integrations.lightning import LayerMonitor  # doctest: +SKIP
        >>> Trainer(callbacks=[LayerMonitor(out="runs/live", network="model")]).fit(module)  # doctest: +SKIP
    """

    def __init__(
        self,
        val_loader: Iterable[Any] | None = None,
        *,
        network: str | None = None,
        sink: Any = None,
        **options: Any,
    ) -> None:
        if "out" not in options:
            raise CaptureError("LayerMonitor needs out=, the run directory to make, such as out='runs/live'")
        self.val_loader, self.network, self.sink, self.options = val_loader, network, sink, options
        self.monitor: Monitor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin: the network is on its device and the loaders are there."""
        loader = self.val_loader if self.val_loader is not None else _val_loader_of(trainer)
        self.monitor = Monitor(
            _network_in(pl_module, self.network), loader, sink=self._sink_of(trainer), **self.options
        )

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look, after the validation of the epoch."""
        if self.monitor is not None:
            self.monitor.step(trainer.current_epoch, sink_step=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Say in the run that the training is over."""
        if self.monitor is not None:
            self.monitor.close()

    def _sink_of(self, trainer: Any) -> Any:
        if self.sink != "logger":
            return self.sink
        if not trainer.loggers:
            raise CaptureError("sink='logger' and the trainer has no logger; give it one, or another sink")
        return trainer.loggers[0]


def _network_in(module: nn.Module, path: str | None) -> nn.Module:
    """The network inside a LightningModule."""
    if path is None:
        return module
    try:
        return module.get_submodule(path)
    except (AttributeError, TypeError):
        names = ", ".join(name for name, _ in module.named_children())
        raise ModelError(f"network is {shown(path)}, which the LightningModule does not have; it has {names}") from None


def _val_loader_of(trainer: Any) -> Iterable[Any]:
    """The first val loader of the trainer, whatever holds several of them."""
    loaders = trainer.val_dataloaders
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, (list, tuple)):
        loaders = loaders[0] if loaders else None
    if loaders is None:
        raise CaptureError(
            "the trainer has no val loader at the start of the training; give one: LayerMonitor(val_loader, out=...)"
        )
    return loaders
