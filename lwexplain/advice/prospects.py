"""What a network of each depth promises: expected accuracy, sufficiency and costs."""

from dataclasses import dataclass

COSTS = {
    "params": "parameters",
    "flops": "flops",
    "latency": "latency_seconds",
    "memory": "memory_bytes",
}
"""Costs one can minimise or bound -> the metric of the table, which is also the field of a Prospect."""


@dataclass(frozen=True)
class Prospect:
    """A network of the first ``depth`` stages and a head, trained as the analyzed one was.

    ``expected_accuracy`` in [0, 1] on test (val where there is no test split) with its 90 % interval, for reporting
    only; ``sufficient``: decided on val, not worse than the best depth by more than the tolerance. Costs are those of
    the network with its head, for one image: ``parameters``, ``flops``, median ``latency_seconds`` at batch 1 and
    ``memory_bytes`` (weights and the largest working set); None where they were not measured. ``val_accuracy`` is
    what is expected on val, by which depths are ranked (None: ``expected_accuracy`` is of val itself), and
    ``balanced_accuracy`` the measured one, on val, of what the advice is judged by; None where it was not measured.
    """

    stage: str
    depth: int
    expected_accuracy: float
    expected_accuracy_interval: tuple[float, float]
    sufficient: bool
    parameters: float | None = None
    flops: float | None = None
    latency_seconds: float | None = None
    memory_bytes: float | None = None
    val_accuracy: float | None = None
    balanced_accuracy: float | None = None

    @property
    def rank_accuracy(self) -> float:
        """The accuracy on val by which depths are ranked: test decides nothing."""
        return self.expected_accuracy if self.val_accuracy is None else self.val_accuracy

    def cost(self, objective: str) -> float | None:
        """The cost that an objective of ``COSTS`` is about."""
        value: float | None = getattr(self, COSTS[objective])
        return value
