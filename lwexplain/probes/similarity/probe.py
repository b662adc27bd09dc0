"""How alike two stages see the same samples: centred kernel alignment (CKA)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, Measurement, ProbeDefaults, StageData
from lwexplain.probes.jackknife import GROUPS, bias_corrected_interval, jackknife_groups
from lwexplain.probes.metrics import similarity as declared
from lwexplain.probes.similarity.hsic import gram_hsic, linear_hsic, linear_kernel, rbf_kernel
from lwexplain.probes.splits import feature_blocks, float64_device, let_go, read_split
from lwexplain.probes.subsample import sample_note, stratified_sample

SAMPLES = 2_000
BANDWIDTH = 0.8
"""The width of the RBF kernel as a share of the median distance, one of those in Table 2 of Kornblith et al. 2019."""

ROUNDING = 1e-12
"""HSIC of features with themselves below this share of its scale is rounding of a zero."""

Pair = tuple[int, int]


@PROBES.register("similarity")
class Similarity(ProbeDefaults):
    """CKA of every two stages on one split: rows ``cka_linear`` and ``cka_rbf`` on a stage, ``class_`` the other stage.

    CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Kornblith et al. 2019) with the unbiased HSIC_1 of Song et al.
    2012 (as Nguyen, Raghu and Kornblith 2021): 1 for a stage with itself and for features that differ by a rotation and
    a scale, near 0 (also below) for independent ones, whatever their widths. ``cka_linear`` is exact, from all
    samples, with a jackknife interval; ``cka_rbf`` is from a stratified sub-sample of at most ``samples``, with
    exp(-d^2 / (2 s^2)) and s = ``bandwidth`` times the median distance. Stages too wide for the memory limit lose the
    interval, then the exact value; the note says so. NaN with a note where a stage's features do not vary.

    A stage whose features cannot be used gets a ProbeError in place of results, and no row elsewhere. Raises ProbeError
    for fewer than four samples and for stages that do not hold the same samples.
    """

    name = "similarity"
    order = 110
    metrics = declared.METRICS

    def __init__(self, split: str = "val", samples: int = SAMPLES, bandwidth: float = BANDWIDTH) -> None:
        if samples < 4 or not bandwidth > 0:
            raise ProbeError(
                f"similarity: samples is {samples} and bandwidth {bandwidth}; expected at least 4 samples and "
                "a bandwidth above 0"
            )
        self.split = split
        self.samples = samples
        self.bandwidth = bandwidth

    def measure_all(self, stages: list[StageData]) -> dict[str, list[Measurement] | ProbeError]:
        results: dict[str, list[Measurement] | ProbeError] = {}
        features, usable = [], []
        for stage in stages:
            try:
                features.append(read_split(stage, self.split)[0])
                usable.append(stage)
            except ProbeError as error:
                results[stage.name] = error
        if not usable:
            raise next(error for error in results.values() if isinstance(error, ProbeError))
        return {**results, **self._rows(usable, features)}

    def _rows(self, stages: list[StageData], features: list[np.ndarray]) -> dict[str, list[Measurement]]:
        for stage in stages:
            if not np.array_equal(stage.labels[self.split], stages[0].labels[self.split]):
                raise ProbeError(
                    f"stages {stages[0].name!r} and {stage.name!r} do not hold the same {self.split} samples; "
                    "similarity needs them in the same order"
                )
        first, labels = stages[0], stages[0].labels[self.split]
        memory = min(stage.memory_bytes for stage in stages)
        sampled = _choose_samples(features, labels, self.samples, first.seed, memory)
        pairs = list(combinations_with_replacement(range(len(stages)), 2))
        group = jackknife_groups(labels, GROUPS)
        found = cka(features, pairs, sampled, self.bandwidth, device=first.device, memory_bytes=memory, group=group)

        rbf_note = f"RBF kernel of {self.bandwidth:g} times the median distance"
        sub_sample = sample_note(first, self.split, len(sampled))
        rows: dict[str, list[Measurement]] = {stage.name: [] for stage in stages}
        for i, stage in enumerate(stages):
            for j, other in enumerate(stages):
                undefined = found.why_undefined(i, j, stage.name, other.name)
                if found.exact[i] and found.exact[j]:
                    n, parts = len(labels), [undefined[0], first.note(self.split)]
                else:
                    n, parts = len(sampled), [undefined[0], "too many features for all samples in memory", sub_sample]
                if not (found.with_interval[i] and found.with_interval[j]):
                    parts.insert(1, "no interval: too many features for the jackknife within the memory limit")
                low, high = found.intervals.get((min(i, j), max(i, j)), (None, None))
                value, note = float(found.linear[i, j]), "; ".join(filter(None, parts))
                rows[stage.name].append(Measurement("cka_linear", value, self.split, other.name, low, high, n, note))
                value, note = float(found.rbf[i, j]), "; ".join(filter(None, [undefined[1], rbf_note, sub_sample]))
                rows[stage.name].append(
                    Measurement("cka_rbf", value, self.split, other.name, n=len(sampled), note=note)
                )
        return rows


def similarity_matrix(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    *,
    samples: int = SAMPLES,
    bandwidth: float = BANDWIDTH,
    seed: int = 0,
    device: str = "cpu",
    memory_bytes: int = 512 * 2**20,
) -> tuple[np.ndarray, np.ndarray]:
    """Linear and RBF CKA (S, T) between S and T features (N, D) of the same N samples: two runs, say, or two epochs.

    As in ``Similarity``, but for intervals and notes; NaN where features do not vary. Raises ProbeError for features of
    different numbers of samples, or of fewer than four.
    """
    features = [*first, *second]
    pairs = [(i, len(first) + j) for i in range(len(first)) for j in range(len(second))]
    sizes = sorted({len(each) for each in features})
    if len(sizes) != 1:
        raise ProbeError(f"similarity: features of {sizes} samples; expected those of the same samples")
    sampled = _choose_samples(features, np.zeros(sizes[0], dtype=np.int64), samples, seed, memory_bytes)
    found = cka(features, pairs, sampled, bandwidth, device=device, memory_bytes=memory_bytes)
    return found.linear[: len(first), len(first) :], found.rbf[: len(first), len(first) :]


@dataclass(frozen=True)
class Alignment:
    """CKA of S features: ``linear`` and ``rbf`` (S, S), NaN where undefined or not asked for, and 95 % ``intervals`` of
    ``linear`` by pair. ``varies``, ``exact`` (linear from all samples) and ``with_interval`` are (S,) flags."""

    linear: np.ndarray
    rbf: np.ndarray
    intervals: dict[Pair, tuple[float | None, float | None]]
    varies: list[bool]
    exact: list[bool]
    with_interval: list[bool]

    def why_undefined(self, i: int, j: int, first: str, second: str) -> tuple[str, str]:
        """Why ``linear`` and ``rbf`` of a pair are NaN; "" where they are not."""
        constant = [name for k, name in {i: first, j: second}.items() if not self.varies[k]]
        if constant:
            reason = f"undefined: the features of {' and '.join(constant)} do not vary"
            return reason, reason
        alike = "undefined: all pairs of samples are equally far apart"
        coincide = "undefined: samples coincide, or all are equally far apart"
        return alike if np.isnan(self.linear[i, j]) else "", coincide if np.isnan(self.rbf[i, j]) else ""


def cka(
    features: Sequence[np.ndarray],
    pairs: Sequence[Pair],
    sampled: np.ndarray,
    bandwidth: float,
    *,
    device: str,
    memory_bytes: int,
    group: np.ndarray | None = None,
) -> Alignment:
    """CKA of ``pairs`` (i, j) of ``features`` (N, D); ``sampled`` (n,) are the samples for what is not exact.
    Intervals where each sample has a jackknife ``group`` (N,)."""
    means, squares, varies = zip(*(_overview(each, device) for each in features), strict=True)
    matrices = [memory_bytes // 2 // (8 * each.shape[1] ** 2) for each in features]  # (D, D) that fit
    exact = [fit >= 2 for fit in matrices]
    with_interval = [group is not None and fit >= GROUPS + 2 for fit in matrices]

    def hsic(i: int, j: int) -> np.ndarray:
        dealt = group if with_interval[i] and with_interval[j] else None
        return linear_hsic(features[i], features[j], means[i], means[j], group=dealt, device=device)

    on_sample = [_rows(each, sampled, device) for each in features]
    n, memory = len(sampled), memory_bytes // 4
    linear = np.full((len(features), len(features)), np.nan)
    if not all(exact):
        of_sample = gram_hsic([linear_kernel(x) for x in on_sample], n, memory_bytes=memory, device=device)
        linear = _alignment(of_sample, [ROUNDING * square**2 for square in squares])
    bounds: dict[Pair, tuple[float | None, float | None]] = {}
    own = {i: hsic(i, i) for i in sorted({k for pair in pairs for k in pair}) if exact[i] and varies[i]}
    own = {i: values for i, values in own.items() if values[0] > ROUNDING * squares[i] ** 2}
    for i, j in pairs:
        if exact[i] and exact[j]:
            linear[i, j] = linear[j, i] = np.nan
        if i in own and j in own:
            cross = own[i] if i == j else hsic(i, j)
            ratio = cross / np.sqrt(own[i][: len(cross)] * own[j][: len(cross)])
            linear[i, j] = linear[j, i] = ratio[0]
            low, high = bias_corrected_interval(float(ratio[0]), ratio[1:].tolist())
            bounds[i, j] = (low, high) if low is None or high is None else (min(low, 1.0), min(high, 1.0))

    kernels = {i: kernel for i, x in enumerate(on_sample) if varies[i] and (kernel := rbf_kernel(x, bandwidth))}
    rbf = np.full_like(linear, np.nan)
    if kernels:
        of_kernels = gram_hsic(list(kernels.values()), n, memory_bytes=memory, device=device)
        rbf[np.ix_(list(kernels), list(kernels))] = _alignment(of_kernels, [ROUNDING] * len(kernels))
    return Alignment(linear, rbf, bounds, list(varies), exact, with_interval)


def _alignment(hsic: np.ndarray, least: Sequence[float]) -> np.ndarray:
    """HSIC (S, S) divided by the roots of its diagonal; NaN where that is not above ``least``, which is rounding."""
    own = np.where(hsic.diagonal() > least, hsic.diagonal(), np.nan)
    return hsic / np.sqrt(np.outer(own, own))


def _overview(features: np.ndarray, device: str) -> tuple[torch.Tensor, float, bool]:
    """Mean (D,) float64 on the device, mean squared distance from it, and whether any row differs from the first."""
    first = np.array(features[0])
    total, squares, varies = np.zeros(features.shape[1]), 0.0, False
    for _, block in feature_blocks(features):
        moved = block.astype(np.float64) - first
        total += moved.sum(0)
        squares += float(np.square(moved).sum())
        varies = varies or bool(moved.any())
    if not np.isfinite(squares):
        raise ProbeError("similarity: features hold NaN or infinite values; leave such samples out")
    shift = total / len(features)
    mean = torch.from_numpy(first + shift).to(float64_device(device))
    return mean, max(0.0, squares / len(features) - float(shift @ shift)), varies


def _rows(features: np.ndarray, chosen: np.ndarray, device: str) -> torch.Tensor:
    rows = np.asarray(features[chosen], dtype=np.float64)
    let_go(features)
    return torch.from_numpy(rows).to(float64_device(device))


def _choose_samples(
    features: Sequence[np.ndarray], labels: np.ndarray, most: int, seed: int, memory_bytes: int
) -> np.ndarray:
    """Positions of at most ``most`` samples whose features all fit into a quarter of the memory, and so do the
    distances of all their pairs."""
    if len(labels) < 4:
        raise ProbeError(f"similarity: {len(labels)} samples; the unbiased estimator needs at least four")
    of_features = memory_bytes // 4 // (8 * sum(each.shape[1] for each in features))
    of_pairs = int((memory_bytes // 4 // 8) ** 0.5)
    return stratified_sample(labels, max(4, min(most, of_features, of_pairs)), seed)
