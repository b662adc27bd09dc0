"""Running loss and accuracy of an epoch, read from the device only when somebody asks."""

import torch
from torch import Tensor


class Meter:
    """Running loss and hits of each head in an epoch, kept on the device until they are read."""

    def __init__(self, heads: int, device: torch.device) -> None:
        self.loss = torch.zeros(heads, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        self.hits = torch.zeros(heads, dtype=torch.int64, device=device)
        self.count = 0

    def add(self, row: int, value: Tensor, logits: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            self.loss[row] += value.detach() * len(labels)
            self.hits[row] += (logits.argmax(1) == labels).sum()

    def read(self) -> tuple[list[float], list[float]]:
        """Mean loss and accuracy of each head."""
        count = max(1, self.count)
        return (self.loss / count).tolist(), (self.hits / count).tolist()

    def tensors(self) -> dict[str, Tensor]:
        return {"loss": self.loss, "hits": self.hits, "count": torch.tensor(self.count)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.loss.copy_(tensors["loss"])
        self.hits.copy_(tensors["hits"])
        self.count = int(tensors["count"])
