"""What a network of each depth promises: expected accuracy, sufficiency and costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lwexplain.costs import COSTS


@dataclass(frozen=True)
class Prospect:
    """A network of the first ``depth`` stages and a head, trained as the analyzed one was.

    ``expected_accuracy`` in [0, 1] on test (val where there is no test split) with its 90 % interval, for reporting
    only; ``sufficient``: decided on val, not worse than the best depth by more than the tolerance. ``costs`` by name
    (``lwexplain.costs``) are those of the network with its head, for one image; None where they were not measured. They
    can be read by their metrics as well: ``parameters``, ``flops``, median ``latency_seconds`` at batch 1 and
    ``memory_bytes`` (weights and the largest working set). ``val_accuracy`` is what is expected on val, by which depths
    are ranked (None: ``expected_accuracy`` is of val itself), and ``balanced_accuracy`` the measured one, on val, of
    what the advice is judged by; None where it was not measured.
    """

    stage: str
    depth: int
    expected_accuracy: float
    expected_accuracy_interval: tuple[float, float]
    sufficient: bool
    costs: Mapping[str, float | None] = field(default_factory=dict)
    val_accuracy: float | None = None
    balanced_accuracy: float | None = None

    @property
    def rank_accuracy(self) -> float:
        """The accuracy on val by which depths are ranked: test decides nothing."""
        return self.expected_accuracy if self.val_accuracy is None else self.val_accuracy

    def cost(self, name: str) -> float | None:
        """The cost of this name; None where it was not measured."""
        return self.costs.get(name)

    def __getattr__(self, name: str) -> float | None:
        """A cost by its metric: ``latency_seconds`` is ``cost("latency")``."""
        for kind in COSTS.values():
            if kind.metric == name:
                return self.cost(kind.name)
        raise AttributeError(f"{type(self).__name__} has no field {name!r}", name=name, obj=self)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(kind.metric for kind in COSTS.values())]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values; costs by their metrics, in the place of ``costs``."""
        found: dict[str, Any] = {}
        for item in fields(self):
            if item.name == "costs":
                found |= {kind.metric: self.cost(kind.name) for kind in COSTS.values()}
            else:
                found[item.name] = getattr(self, item.name)
        return found
