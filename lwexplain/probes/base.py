"""The Probe protocol, what a probe is given (StageData) and what it returns (results)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from lwexplain.metrics import Metric
from lwexplain.registry import Registry

if TYPE_CHECKING:
    import torch

PROBES = Registry("probe", "lwexplain.probes", group="lwexplain.probes")


@dataclass(frozen=True)
class Measurement:
    """One number about one stage: a row of ``metrics.parquet``.

    Attributes:
        metric: Letters, digits and _; one that ends in ``_accuracy`` is a share in [0, 1].
        value: The number.
        split: ``train``, ``val``, ``test``, or ``none`` for what belongs to no split.
        class_: The class, the pair of classes (``pair_of``) or, of a similarity, the other stage that the value belongs
            to; None for all together.
        low: Lower end of the 95 % interval, None where there is none.
        high: Its upper end.
        n: The number of samples behind the value.
        note: What a reader must know: a sub-sample, no convergence, an approximation.

    Examples:
        >>> lw.Measurement("zero_share", 0.25, n=100)
        Measurement(metric='zero_share', value=0.25, split='val', class_=None, low=None, high=None, n=100, note='')
    """

    metric: str
    value: float
    split: str = "val"
    class_: str | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""


def pair_of(first: str, second: str) -> str:
    """How a pair of classes stands in ``Measurement.class_``."""
    return f"{first} | {second}"


@dataclass(frozen=True)
class Predictions:
    """Predicted class per sample, from one ``source`` (``head`` or ``linear_probe``) on one split."""

    source: str
    split: str
    predicted: np.ndarray  # (N,) integers in [0, K), in the order of StageData.labels[split]


@dataclass(frozen=True)
class Embedding:
    """A two-dimensional layout of one split's samples: ``coordinates`` (N, 2) float32."""

    method: str
    split: str
    coordinates: np.ndarray
    samples: np.ndarray  # (N,) integers, positions in StageData.labels[split], none twice


@dataclass(frozen=True)
class Attribution:
    """Heat maps for the fixed sample images: ``maps`` (M, H, W) float32, one per image, signed.

    ``note`` says why no map may be read where they are not ``valid``; ``image_notes`` why that of a single image may
    not, one text for each image, empty where it may (no list: nothing is said of single images).
    """

    method: str
    maps: np.ndarray
    targets: np.ndarray  # (M,) integers in [0, K): the class whose logit is explained
    valid: bool = True
    note: str = ""
    image_notes: Sequence[str] = ()


Result = Measurement | Predictions | Embedding | Attribution


@dataclass
class StageData:
    """What a probe sees of one stage.

    ``features[split]`` is (N, D) float32 and ``labels[split]`` (N,) int64 for the splits ``train`` (fit here),
    ``val`` (decide here) and ``test`` (report once). ``logits[split]`` is (N, K) float32 from the stage's own
    trained head, missing where the stage has none. ``classes`` are the K class names. ``subsampled`` names the
    splits that are a stratified part of the whole. Arrays are shared by all probes and read-only, often memory-mapped;
    copy them to change them. ``memory_bytes`` is what a probe may take for its working arrays.

    The last five serve attribution: ``images`` (M, C, H, W) float32 as the network takes them, ``zero_image`` what an
    image of zeros is among them where that is known, ``model_to_stage`` from images to the stage's raw output, ``head``
    from that output to logits, ``pool`` from it to the rows of ``features``. ``pooled`` says how these rows were made
    where a reader must know.

    Examples:
        >>> import numpy as np
        >>> features = {"val": np.zeros((4, 2), np.float32)}
        >>> stage = lw.StageData("block1", 1, features, {"val": np.array([0, 1, 0, 1])}, classes=["cat", "dog"])
        >>> stage.note("val"), stage.features["val"].shape
        ('', (4, 2))
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
    memory_bytes: int = 512 * 2**20
    images: "torch.Tensor | None" = None
    image_labels: np.ndarray | None = None
    zero_image: str = ""
    model_to_stage: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    head: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    pool: "Callable[[torch.Tensor], torch.Tensor] | None" = None
    pooled: str = ""
    memo: dict[str, Any] = field(default_factory=dict, repr=False)  # shared between probes: a fitted probe, say

    def note(self, split: str) -> str:
        """The remark every value from a split carries: a sub-sample, and how features were pooled."""
        sampled = f"stratified sub-sample of {split}" if split in self.subsampled else ""
        return "; ".join(part for part in (sampled, self.pooled) if part)


@runtime_checkable
class Probe(Protocol):
    """Anything with a name and ``measure(stage)``.

    ``measure`` returns ``{"metric": value}`` or a sequence of results. A probe that needs all stages together
    defines ``measure_all(stages)`` instead, which returns ``{stage name: results}``. What else a probe may say of
    itself stands in ``ProbeDefaults``, with what holds where it does not.

    Examples:
        >>> class Mean:
        ...     name = "mean"
        ...
        ...     def measure(self, stage):
        ...         return {"feature_mean": stage.features["val"].mean()}
        >>> isinstance(Mean(), lw.Probe)
        True
        >>> "feature_mean" in set(lw.analyze("runs/digits", probes=["linear", Mean()])["metric"])
        True
    """

    name: str

    def measure(self, stage: StageData) -> "Mapping[str, float] | Sequence[Result]": ...


@runtime_checkable
class ProbeOfAllStages(Protocol):
    """Anything with a name and ``measure_all(stages)``: the probe that needs all stages together.

    An exception in place of the results of a stage says why it could not be measured; the other stages stand.
    """

    name: str

    def measure_all(self, stages: list[StageData]) -> "Mapping[str, Mapping[str, float] | Sequence[Result]]": ...


class ProbeDefaults:
    """What a probe may declare and define besides ``name`` and ``measure``, and what holds where it does not.

    A probe need not derive from it: any object may define some of this and leave out the rest.

    Examples:
        >>> class Mean(lw.ProbeDefaults):
        ...     name = "mean"
        ...     metrics = [lw.Metric("feature_mean", "mean of the features", family="geometry")]
        ...
        ...     def measure(self, stage):
        ...         return {"feature_mean": stage.features["val"].mean()}
        >>> table = lw.analyze("runs/digits", probes=["linear", Mean()])
        >>> table.attrs["metrics"]["feature_mean"]
        {'title': 'mean of the features', 'better': None, 'family': 'geometry'}
    """

    metrics: Sequence[Metric] = ()
    """The metrics it gives: what each is called, which direction is better, its family. They are stored with the
    analysis. A metric that is not among them is titled by its name."""

    order: int = 1000
    """Where its results stand in tables: ascending, those of one number by name; lwexplain's own probes come first."""

    settings: Mapping[str, Any] | None = None
    """What decides its results, as plain values that JSON holds: results that were kept are used again while these stay
    the same. None: the attributes of the object whose names do not begin with ``_``, where it is one of lwexplain's own
    probes or one that an installed package offers by name; of any other object nobody can say, and it measures anew."""

    needs_quiet: bool = False
    """Whether it reads the clock: such a probe runs before any process of another probe is at work."""

    collective: bool = False
    """Whether its ``measure_all`` shares the work out between several processes (torchrun) and must be called by all of
    them. Without it, ``measure_all`` runs in the first process alone."""

    def prepare(self) -> None:
        """Start what takes long to start, before there are stages; not called where kept results are used again."""

    def begin(self, stages: "Sequence[StageData]") -> None:
        """Start to work on ``stages`` in a process of its own, beside other probes, and return at once; ``measure`` or
        ``measure_all`` waits for it. Called when no probe that ``needs_quiet`` is left."""

    def is_busy(self) -> bool:
        """Whether a process of its own takes a core now; the other probes then use one thread less."""
        return False
