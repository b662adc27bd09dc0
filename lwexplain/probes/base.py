"""The Probe protocol, what a probe is given (StageData) and what it returns (results)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from lwexplain.errors import ProbeError
from lwexplain.registry import Registry

if TYPE_CHECKING:
    import torch

PROBES = Registry("probe", "lwexplain.probes", group="lwexplain.probes")


@dataclass(frozen=True)
class Measurement:
    """One number about one stage: a row of ``metrics.parquet``.

    ``class_`` names the class (or the pair of classes) a value belongs to, None for all classes together.
    ``low`` and ``high`` bound a 95 % interval where there is one; ``n`` is the number of samples behind it.
    ``note`` says what a reader must know: a sub-sample, no convergence, an approximation.
    """

    metric: str
    value: float
    split: str = "val"
    class_: str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Predictions:
    """Predicted class per sample, from one ``source`` (``head`` or ``linear_probe``) on one split."""

    source: str
    split: str
    predicted: np.ndarray  # (N,) int64, in the order of StageData.labels[split]


@dataclass(frozen=True)
class Embedding:
    """A two-dimensional layout of one split's samples: ``coordinates`` (N, 2) float32."""

    method: str
    split: str
    coordinates: np.ndarray
    samples: np.ndarray  # (N,) int64, positions in StageData.labels[split]


@dataclass(frozen=True)
class Attribution:
    """Heat maps for the fixed sample images: ``maps`` (M, H, W) float32, one per image, signed."""

    method: str
    maps: np.ndarray
    targets: np.ndarray  # (M,) int64: the class whose logit is explained
    valid: bool = True
    note: str = ""


Result = Measurement | Predictions | Embedding | Attribution


@dataclass
class StageData:
    """What a probe sees of one stage.

    ``features[split]`` is (N, D) float32 and ``labels[split]`` (N,) int64 for the splits ``train`` (fit here),
    ``val`` (decide here) and ``test`` (report once). ``logits[split]`` is (N, K) float32 from the stage's own
    trained head, missing where the stage has none. ``classes`` are the K class names. ``subsampled`` names the
    splits that are a stratified part of the whole.

    The last three serve attribution: ``model_to_stage`` maps images (M, C, H, W), normalised float32, to the
    stage's raw output, ``head`` maps that output to logits, ``pool`` maps it to the rows of ``features``.
    """

    name: str
    depth: int
    features: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: list[str]
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    seed: int = 0
    subsampled: frozenset[str] = frozenset()
    device: str = "cpu"
    images: "torch.Tensor | None" = None
    image_labels: np.ndarray | None = None
    model_to_stage: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    head: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    pool: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    memo: dict[str, Any] = field(default_factory=dict, repr=False)  # shared between probes: a fitted probe, say

    def note(self, split: str) -> str:
        """The remark every value from a sub-sampled split carries."""
        return f"stratified sub-sample of {split}" if split in self.subsampled else ""


@runtime_checkable
class Probe(Protocol):
    """Anything with a name and ``measure(stage)``.

    ``measure`` returns ``{"metric": value}`` or a sequence of results. A probe that needs all stages together
    defines ``measure_all(stages)`` instead, which returns ``{stage name: results}``.
    """

    name: str

    def measure(self, stage: StageData) -> "Mapping[str, float] | Sequence[Result]": ...


@runtime_checkable
class ProbeOfAllStages(Protocol):
    """Anything with a name and ``measure_all(stages)``: the probe that needs all stages together."""

    name: str

    def measure_all(self, stages: list[StageData]) -> "Mapping[str, Mapping[str, float] | Sequence[Result]]": ...


METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def as_results(probe: str, returned: Any) -> list[Result]:
    """Check what a probe returned and bring it into the form of a list of results; raises ProbeError."""
    if isinstance(returned, Mapping):
        returned = [Measurement(str(metric), value) for metric, value in returned.items()]
    if isinstance(returned, (Measurement, Predictions, Embedding, Attribution)):
        returned = [returned]
    if isinstance(returned, (str, bytes)) or not isinstance(returned, Sequence):
        raise ProbeError(
            f"probe {probe!r} returned {type(returned).__name__}; expected a dict of metric to number "
            "or a list of Measurement, Predictions, Embedding or Attribution"
        )
    results: list[Result] = []
    for item in returned:
        if not isinstance(item, (Measurement, Predictions, Embedding, Attribution)):
            raise ProbeError(f"probe {probe!r} returned a list that holds {item!r}, which is no Measurement")
        if isinstance(item, Measurement):
            if not METRIC_NAME.fullmatch(item.metric):
                raise ProbeError(f"probe {probe!r}: metric name {item.metric!r} must be letters, digits and _")
            try:
                float(item.value)
            except (TypeError, ValueError):
                raise ProbeError(f"probe {probe!r}: {item.metric} is {item.value!r}, not a number") from None
        results.append(item)
    return results
