"""Running loss and accuracy of an epoch, read from the device only when somebody asks."""

import torch
from torch import Tensor

from lwexplain.processes import World


class Meter:
    """Running loss and hits of each head in an epoch, kept on its device until they are read."""

    def __init__(self, devices: list[torch.device], world: World) -> None:
        self.world = world
        self.loss = [torch.zeros((), dtype=_precise(device), device=device) for device in devices]
        self.hits = [torch.zeros((), dtype=torch.int64, device=device) for device in devices]
        self.count = 0
        """Images so far, of all processes."""

    @torch.no_grad()
    def add(self, row: int, value: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch of this process: mean loss, logits (N, K) and labels (N,) of the head in ``row``."""
        self.loss[row] += value.detach() * len(labels)
        self.hits[row] += (logits.argmax(1) == labels.to(logits.device)).sum()

    def read(self) -> tuple[list[float], list[float]]:
        """Mean loss and accuracy of each head over all processes; every process must call it."""
        sums = self._sums() / max(1, self.count)
        return sums[: len(self.loss)].tolist(), sums[len(self.loss) :].tolist()

    @property
    def rows(self) -> int:
        """How many sums there are: a loss and a number of hits for each head."""
        return len(self.loss) + len(self.hits)

    def state_dict(self) -> dict[str, Tensor]:
        """The sums of all processes and the number of images; every process must call it."""
        return {"sums": self._sums(), "count": torch.tensor(self.count)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Go on from ``tensors``; in several processes the first one takes over all that was summed."""
        sums = tensors["sums"] if self.world.is_main else torch.zeros_like(tensors["sums"])
        for part, value in zip([*self.loss, *self.hits], sums, strict=True):
            part.copy_(value)
        self.count = int(tensors["count"])

    def _sums(self) -> Tensor:
        """Losses, then hits, float64 (2 H,), on the CPU."""
        sums = [float(part) for part in [*self.loss, *self.hits]]
        return self.world.total(torch.tensor(sums, dtype=torch.float64))


def _precise(device: torch.device) -> torch.dtype:
    return torch.float64 if device.type != "mps" else torch.float32
