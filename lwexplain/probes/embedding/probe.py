"""Two-dimensional layouts of the samples, stage by stage, in which points keep their place."""

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, Embedding, Measurement, ProbeDefaults, StageData
from lwexplain.probes.embedding.layout import align, layout_shift, principal_components
from lwexplain.probes.embedding.layout_quality import distinct_points, neighbourhood_quality
from lwexplain.probes.embedding.umap_layout import MAX_DIMENSIONS, Options
from lwexplain.probes.embedding.umap_process import UmapProcess
from lwexplain.probes.metrics import layout as declared

BACKENDS = ("auto", "umap", "torchdr")
FEWEST_SAMPLES = 5

Layout = list[Embedding | Measurement]


@PROBES.register("pca")
class Pca(ProbeDefaults):
    """The first two principal components of each stage, turned onto those of the stage before.

    ``measure_all`` returns per stage one Embedding of at most ``max_samples`` samples of the split, the same ones in
    every stage, the classes in proportion. From 3 samples on there are the metrics ``pca_trustworthiness`` and
    ``pca_neighbors_kept`` of ``neighbourhood_quality``, both in [0, 1].
    """

    name = "pca"
    order = 120
    metrics = declared.PCA

    def __init__(self, split: str = "val", max_samples: int = 2000, neighbors: int = 15) -> None:
        self.split, self.max_samples, self.neighbors = split, max_samples, neighbors

    def measure_all(self, stages: Sequence[StageData]) -> dict[str, Layout | ProbeError]:
        stages, unusable = usable_stages(stages, self.split)
        results: dict[str, Layout | ProbeError] = {**unusable}
        samples = choose_samples(stages, self.split, self.max_samples)
        near = _near(self.neighbors, len(samples))
        before: np.ndarray | None = None
        for stage, x in zip(stages, _rows(stages, self.split, samples), strict=True):
            layout = principal_components(x, 2)
            before = layout if before is None else align(layout, before)
            coordinates = before.astype(np.float32)
            found: Layout = [Embedding("pca", self.split, coordinates, samples)]
            results[stage.name] = found
            if near > 0:
                note = _note("PCA", near, len(samples), stages[0], self.split, x)
                values = neighbourhood_quality(x, coordinates, near)
                for metric, value in zip(("pca_trustworthiness", "pca_neighbors_kept"), values, strict=True):
                    found.append(Measurement(metric, value, self.split, n=len(samples), note=note))
        return results


@PROBES.register("umap")
class Umap(ProbeDefaults):
    """UMAP of each stage, started from and turned onto the layout of the stage before, in its own process.

    ``measure_all`` returns per stage one Embedding of at most ``max_samples`` samples of the split (the same ones in
    every stage, the classes in proportion) and the metrics ``trustworthiness`` and ``neighbors_kept`` of
    ``neighbourhood_quality``, both in [0, 1], and from the second stage on ``layout_shift``, >= 0: how far points
    moved since the stage before (``layout.layout_shift``). Features of more than 50 dimensions are reduced to 50
    principal components for UMAP, not for the metrics. The same seed gives the same layout.

    ``prepare()`` starts the process before there are stages, so that umap-learn is imported and compiled meanwhile;
    ``begin(stages)`` gives it its work and returns at once, so that it computes beside other probes; ``measure_all``
    of the same features then waits for it. Each does what was left out before, and the layouts are the same. A
    process ends with ``end()`` and with this object. ``backend`` is ``umap`` (umap-learn, one CPU thread),
    ``torchdr`` (on the stages' device) or ``auto``: torchdr on CUDA where it is installed.

    Raises ProbeError where there are fewer than 5 samples, torchdr is missing, or the process fails or takes longer
    than ``timeout`` seconds from ``begin`` on.
    """

    name = "umap"
    order = 130
    metrics = declared.UMAP

    def __init__(
        self,
        split: str = "val",
        max_samples: int = 2000,
        neighbors: int = 15,
        epochs: int = 200,
        timeout: float = 900.0,
        backend: str = "auto",
    ) -> None:
        if backend not in BACKENDS:
            raise ProbeError(f"umap: backend {backend!r} is none of {', '.join(BACKENDS)}")
        self.split, self.max_samples, self.backend = split, max_samples, backend
        self.neighbors, self.epochs, self.timeout = neighbors, epochs, timeout
        self._process: UmapProcess | None = None
        self._begun: str | None = None  # the fingerprint of what the process computes

    def prepare(self) -> None:
        """Start the process, which compiles and then waits for ``begin``, unless there is one; not for torchdr.

        With ``auto`` the device decides, which is not known yet: ``begin`` ends a process that is of no use.
        """
        if self._process is None and self.backend != "torchdr":
            with contextlib.suppress(OSError):  # begin tries again, and raises what stops it
                self._process = UmapProcess()

    def begin(self, stages: Sequence[StageData]) -> None:
        """Have the process compute these stages, unless it does already; one begun for others is ended."""
        stages, _ = usable_stages(stages, self.split)
        samples = choose_samples(stages, self.split, self.max_samples)
        options = self._options(stages[0], len(samples))
        key = _fingerprint(options, _rows(stages, self.split, samples))
        if self._begun == key:
            return
        if self._begun is not None or options.backend == "torchdr":
            self.end()
        self._process = self._process or UmapProcess(options.backend)
        try:
            self._process.compute(_rows(stages, self.split, samples), options)
        except BaseException:
            self.end()
            raise
        self._begun = key

    def is_busy(self) -> bool:
        """Whether a process of this probe is compiling or computing now."""
        process = self._process
        return process is not None and process.is_busy()

    def end(self) -> None:
        """End a process that was prepared or begun and not waited for."""
        if self._process is not None:
            self._process.end()
        self._process = self._begun = None

    def measure_all(self, stages: Sequence[StageData]) -> dict[str, Layout | ProbeError]:
        try:
            stages, unusable = usable_stages(stages, self.split)
            self.begin(stages)
            assert self._process is not None
            found = self._process.layouts(self.timeout)
        finally:
            self.end()

        results: dict[str, Layout | ProbeError] = {**unusable}
        samples = choose_samples(stages, self.split, self.max_samples)
        options = self._options(stages[0], len(samples))
        for i, (stage, x) in enumerate(zip(stages, _rows(stages, self.split, samples), strict=True)):
            by = "UMAP by torchdr" if options.backend == "torchdr" else "UMAP"
            if stage.features[self.split].shape[1] > MAX_DIMENSIONS:
                by += f" of {MAX_DIMENSIONS} principal components"
            note = _note(by, options.near, len(samples), stages[0], self.split, x)
            values = {"trustworthiness": found.trustworthiness[i], "neighbors_kept": found.neighbors_kept[i]}
            if i > 0:
                values["layout_shift"] = layout_shift(found.coordinates[i], found.coordinates[i - 1])
            results[stage.name] = [
                Embedding("umap", self.split, found.coordinates[i], samples),
                *(
                    Measurement(metric, value, self.split, n=len(samples), note=note)
                    for metric, value in values.items()
                ),
            ]
        return results

    def _options(self, stage: StageData, n: int) -> Options:
        if n < FEWEST_SAMPLES:
            raise ProbeError(f"UMAP needs at least {FEWEST_SAMPLES} samples; {self.split} has {n}")
        installed = importlib.util.find_spec("torchdr") is not None
        if self.backend == "torchdr" and not installed:
            raise ProbeError("UMAP by torchdr: it is not installed; pip install 'lwexplain[gpu]', or backend='umap'")
        by_torchdr = self.backend == "torchdr" or (
            self.backend == "auto" and installed and stage.device.startswith("cuda")
        )
        return Options(
            seed=stage.seed,
            neighbors=min(self.neighbors, n - 1),
            near=_near(self.neighbors, n),
            epochs=self.epochs,
            backend="torchdr" if by_torchdr else "umap",
            device=stage.device if by_torchdr else "cpu",
        )


def usable_stages(stages: Sequence[StageData], split: str) -> tuple[list[StageData], dict[str, ProbeError]]:
    """The stages whose features can be laid out, and by name what is wrong with the others; raises it where all are."""
    from lwexplain.probes.splits import read_split  # with torch, which prepare() does not wait for

    usable, wrong = [], {}
    for stage in stages:
        try:
            read_split(stage, split)
            usable.append(stage)
        except ProbeError as error:
            wrong[stage.name] = error
    if not usable:
        raise next(iter(wrong.values()))
    return usable, wrong


def choose_samples(stages: Sequence[StageData], split: str, most: int) -> np.ndarray:
    """Sorted positions (n,) int64 of at most ``most`` samples of the split, the classes in proportion.

    Depends on the seed and the labels only. Raises ProbeError where the stages do not hold the same samples.
    """
    from lwexplain.probes.splits import read_split  # with torch, which prepare() does not wait for

    _, labels = read_split(stages[0], split)
    for stage in stages[1:]:
        if not np.array_equal(read_split(stage, split)[1], labels):
            raise ProbeError(
                f"stages {stages[0].name!r} and {stage.name!r} differ in their {split} labels; layouts need the "
                "same samples in the same order"
            )
    if len(labels) <= most:
        return np.arange(len(labels))
    rng = np.random.default_rng(stages[0].seed)
    # position within the own class, as a share of it: the smallest shares take every class in proportion
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        share[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.sort(np.argsort(share, kind="stable")[:most]).astype(np.int64)


def _rows(stages: Sequence[StageData], split: str, samples: np.ndarray) -> Iterator[np.ndarray]:
    """Features (n, D) of the chosen samples, one stage in memory at a time."""
    from lwexplain.probes.splits import let_go, read_split  # as in choose_samples

    for stage in stages:
        features = read_split(stage, split)[0]
        yield features[samples]
        let_go(features)


def _near(neighbors: int, n: int) -> int:
    """How many neighbours the quality of a layout of ``n`` points looks at: fewer than half of them."""
    return min(neighbors, (n - 1) // 2)


def _note(method: str, near: int, n: int, stage: StageData, split: str, features: np.ndarray) -> str:
    from lwexplain.probes.neighbourhood import copies_note  # as in choose_samples

    total, distinct = len(stage.labels[split]), len(distinct_points(features))
    sampled = f", {n} of {total} samples" if n < total else ""
    copies = f"; {copies_note(n - distinct, n)}" if distinct < n else ""
    return f"{method}, {min(near, (distinct - 1) // 2)} neighbours{sampled}{copies}"


def _fingerprint(options: Options, features: Iterator[np.ndarray]) -> str:
    digest = hashlib.blake2b(repr(asdict(options)).encode(), digest_size=16)
    for x in features:
        digest.update(repr(x.shape).encode())
        digest.update(np.ascontiguousarray(x).data)
    return digest.hexdigest()
