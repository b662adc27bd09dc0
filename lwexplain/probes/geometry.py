"""The geometry of a stage's features: how many directions they use, and how many they need."""

import math

import numpy as np
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, Measurement, ProbeDefaults, StageData
from lwexplain.probes.jackknife import (
    PLAIN,
    RECIPROCAL,
    Bounds,
    bias_corrected_interval,
)
from lwexplain.probes.metrics import geometry as declared
from lwexplain.probes.moments import ClassMoments, moments_of
from lwexplain.probes.neighbourhood import copies_in, copies_note, neighbours_of
from lwexplain.probes.splits import read_split
from lwexplain.probes.subsample import sample_note

EXPLAINED = 0.99
SAMPLES_A_FEATURE = 10

EQUALLY_FAR = 1e-12
"""A mean logarithm of the ratios below this is rounding of 0."""

DISCARDED = 0.1
"""Share of the largest ratios of neighbour distances that only count as being the largest (Facco et al. 2017)."""


@PROBES.register("geometry")
class Geometry(ProbeDefaults):
    """Effective rank, participation ratio, saturation and intrinsic dimension of the features of one split.

    The first three from the spectrum of the covariance, in directions (``saturation`` as a share of the width D, in
    (0, 1]), the last from the two nearest neighbours of each distinct sample; labels play no part. Samples that stand
    in the split more than once count once as neighbours (``copies``). Undefined (NaN, with the reason in the note)
    where the features do not vary. Raises ProbeError for a split that is missing or holds fewer than three samples.

    Intervals, by the jackknife: of the population's participation ratio, on the scale of its reciprocal; of the
    population's effective rank where there are ten samples for each feature, as with fewer no correction of its bias
    holds. The intrinsic dimension carries none: samples that share a neighbour make the model's too narrow, and the
    jackknife of the nearest neighbour is too wide. Saturation is a count, which the jackknife does not fit.
    """

    name = "geometry"
    order = 100
    metrics = declared.OF_FEATURES

    def __init__(self, split: str = "val") -> None:
        self.split = split

    def measure(self, stage: StageData) -> list[Measurement]:
        n = len(read_split(stage, self.split)[0])
        if n < 3:
            raise ProbeError(f"stage {stage.name!r}: {n} {self.split} samples; geometry needs at least three")
        return [*self._of_spectrum(stage, n), self._intrinsic_dimension(stage)]

    def _of_spectrum(self, stage: StageData, n: int) -> list[Measurement]:
        moments = moments_of(stage, self.split)
        spectrum, width = variances(moments.whole), moments.whole.means.shape[1]
        without_a_group = [variances(part) for part in moments.all_but_one()]
        constant = "" if len(spectrum) else "undefined: the features do not vary"
        own_note = stage.note(self.split)
        few = n < SAMPLES_A_FEATURE * width
        rows = []
        for metric, index, scale in (
            ("effective_rank", effective_rank, PLAIN),
            ("participation_ratio", participation_ratio, RECIPROCAL),
        ):
            value = index(spectrum)
            low, high = bias_corrected_interval(value, [index(part) for part in without_a_group], scale)
            reason = moments.note
            if metric == "effective_rank" and few:
                low = high = None
                reason = reason or f"no interval: fewer than {SAMPLES_A_FEATURE} samples for each feature"
            low, high = _within(low, high, 1.0, float(width))
            note = "; ".join(filter(None, [constant, "" if constant else reason, own_note]))
            rows.append(Measurement(metric, value, self.split, low=low, high=high, n=n, note=note))
        share = saturation(spectrum, width)
        note = "; ".join(filter(None, [constant, own_note]))
        return [*rows, Measurement("saturation", share, self.split, n=n, note=note)]

    def _intrinsic_dimension(self, stage: StageData) -> Measurement:
        nearest, copies = neighbours_of(stage, self.split), copies_in(stage, self.split)
        total, n = len(copies.first), len(nearest.samples)
        notes = [copies_note(copies.extra, total), sample_note(stage, self.split, total)]
        if n < 3 and copies.extra == 0:
            raise ProbeError(
                f"stage {stage.name!r}: {stage.memory_bytes:,} bytes hold the features of two samples only; "
                "the intrinsic dimension needs three: give the probe more memory"
            )
        value, reason = math.nan, "undefined: fewer than three distinct samples"
        if n >= 3:
            value = two_nearest_neighbours(nearest.distances[:, 0], nearest.distances[:, 1])
            reason = (
                "undefined: all samples are equally far apart, or as good as equal beside one far larger"
                if math.isnan(value)
                else ""
            )
        note = "; ".join(filter(None, [reason, *notes]))
        return Measurement("intrinsic_dimension", value, self.split, n=n, note=note)


def _within(low: float | None, high: float | None, least: float, most: float) -> Bounds:
    """Bounds that leave no values which an index cannot have."""
    if low is None or high is None:
        return None, None
    return min(max(low, least), most), min(max(high, least), most)


def variances(moments: ClassMoments) -> torch.Tensor:
    """Eigenvalues (R,) of the covariance of all samples, times their number, in descending order; R is its rank.

    No index below depends on the factor. What rounding makes of a constant or a redundant feature is left out.
    """
    found = torch.linalg.eigvalsh(moments.total).flip(0)
    epsilon, n = torch.finfo(found.dtype).eps, moments.n
    of_means = n * (n * epsilon * float(moments.mean.abs().max())) ** 2
    return found[found > max(len(found) * epsilon * float(found[0]), of_means)]


def effective_rank(spectrum: torch.Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred features (Roy and Vetterli 2007, def. 1).

    These are the roots of the eigenvalues in ``spectrum`` (R,). From 1 to R; NaN for an empty spectrum.
    """
    if not len(spectrum):
        return math.nan
    share = spectrum.sqrt() / spectrum.sqrt().sum()
    return float(torch.special.entr(share).sum().exp())


def participation_ratio(spectrum: torch.Tensor) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, from 1 to R (Gao et al. 2017, "A theory of multineuronal
    dimensionality"); NaN for an empty spectrum."""
    return float(spectrum.sum().square() / spectrum.square().sum()) if len(spectrum) else math.nan


def saturation(spectrum: torch.Tensor, width: int) -> float:
    """Smallest number of directions that explain 99 % of the variance, divided by the width (Shenk et al. 2020; Richter
    et al. 2021). In (0, 1]; NaN for an empty spectrum. The code of delve counts the directions before the last."""
    if not len(spectrum):
        return math.nan
    explained = spectrum.cumsum(0) / spectrum.sum()
    return (int((explained < EXPLAINED * (1 - 1e-12)).sum()) + 1) / width


def two_nearest_neighbours(first: np.ndarray, second: np.ndarray) -> float:
    """Intrinsic dimension by TwoNN from the distances ``first`` and ``second`` (n,) to the two nearest neighbours.

    The logarithm of their ratio is exponential with the dimension as its rate (Facco et al. 2017). The largest tenth of
    the ratios only counts as larger than the rest, so that with k kept, the k - 1 over (sum of the kept + (n - k) times
    the largest kept) is unbiased (Epstein and Sobel 1953). NaN where fewer than three remain, or all ratios are 1.
    """
    apart = first > 0  # distinct samples may still be at a computed distance of 0, beside one far larger
    logarithms = np.sort(np.log(second[apart] / first[apart]))
    n = len(logarithms)
    kept = int(n * (1 - DISCARDED))
    total = float(logarithms[:kept].sum() + (n - kept) * logarithms[kept - 1]) if kept >= 2 else 0.0
    return (kept - 1) / total if total > EQUALLY_FAR * n else math.nan
