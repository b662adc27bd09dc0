"""Decoupled greedy learning: all stages at once, each from its own local loss (Belilovsky et al. 2020)."""

from collections.abc import Sequence

from lwexplain.errors import ConfigError
from lwexplain.models.staged import StagedModel
from lwexplain.training.strategies.base import STRATEGIES, Phase, Span


@STRATEGIES.register("decoupled")
class Decoupled:
    """All stages at once, gradients cut between them (Belilovsky et al. 2020).

    ``devices`` places neighbouring stages, in equal numbers, on several devices. No stage waits for a gradient of a
    later one, so the devices work at the same time on consecutive batches: a pipeline without backward locking.
    """

    def __init__(self, *, devices: Sequence[str] | None = None) -> None:
        if devices is not None and (
            isinstance(devices, str)
            or not isinstance(devices, Sequence)
            or not devices
            or not all(isinstance(device, str) for device in devices)
        ):
            raise ConfigError(
                f"training.strategy_options.devices={devices!r} must be a list of devices such as [cuda:0, cuda:1]"
            )
        self.devices = devices

    def phases(self, model: StagedModel) -> list[Phase]:
        spans = tuple(
            Span(depth - 1, depth, (depth,), device=self._device(depth, model.depth))
            for depth in range(1, model.depth + 1)
        )
        return [Phase("all stages", frozen=0, spans=spans)]

    def _device(self, depth: int, stages: int) -> str | None:
        return None if self.devices is None else self.devices[(depth - 1) * len(self.devices) // stages]
