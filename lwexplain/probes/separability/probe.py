"""How well the classes are separated, without any classifier being fitted."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import Z95, wilson_interval
from lwexplain.probes.base import PROBES, Measurement, StageData, pair_of
from lwexplain.probes.moments import moments_of
from lwexplain.probes.separability.discrimination import generalized_discrimination_value
from lwexplain.probes.separability.pairwise import PairwiseIndices, SortedSamples, pairwise_indices, sorted_samples
from lwexplain.probes.separability.scatter import (
    class_spread,
    closest_pairs,
    davies_bouldin_ratios,
    fisher_of_classes,
    fisher_of_pairs,
    scatter_indices,
)
from lwexplain.probes.splits import read_split
from lwexplain.probes.subsample import sample_note

MOST_PAIRS = 190  # all pairs of 20 classes


@PROBES.register("separability")
class Separability:
    """Separability indices of the features of one split as they are; only the GDV standardises them.

    - ``separability_index``, ``knn_purity``, ``silhouette``, ``hypothesis_margin`` and ``dsi`` (see
      ``pairwise.PairwiseIndices``) of all samples and of each class, ``gdv`` of all, from all pairwise distances;
    - ``fisher_ratio`` of all samples, of each class and of pairs of classes, ``davies_bouldin`` of all and of pairs,
      ``calinski_harabasz`` and ``separation_law`` of all, from the scatter of the classes (see ``scatter``).

    Of more than 20 classes there are rows for the 190 pairs that are closest by their Fisher ratio. Classes without a
    sample are left out; pairwise distances are those of at most 10,000 samples (``subsample.pairwise_samples``). Both
    are noted. Memory grows with N, not with N^2. Raises ProbeError for fewer than two classes, or NaN.
    """

    name = "separability"

    def __init__(self, split: str = "val") -> None:
        self.split = split

    def measure(self, stage: StageData) -> list[Measurement]:
        empty = _empty_classes(stage, self.split, read_split(stage, self.split)[1])
        samples = sorted_samples(stage, self.split)
        if len(samples.classes) < 2:
            raise ProbeError(
                f"stage {stage.name!r}: {stage.memory_bytes:,} bytes of memory hold {len(samples.positions)} samples, "
                "of one class only; separability needs more memory"
            )
        indices = pairwise_indices(stage, self.split, samples)
        return [
            *self._from_samples(stage, samples, indices, empty),
            self._gdv(stage, samples, empty),
            *self._from_scatter(stage, empty),
        ]

    def _from_samples(
        self, stage: StageData, samples: SortedSamples, indices: PairwiseIndices, empty: str
    ) -> Iterator[Measurement]:
        """The indices that are means over samples, of all and of each class."""
        sampled, k = sample_note(stage, self.split, len(samples.positions)), indices.k
        small = sum(count <= k for count in samples.counts)
        values = {
            "separability_index": indices.agreement,
            "knn_purity": indices.purity,
            "silhouette": indices.silhouette,
            "hypothesis_margin": indices.margin,
        }
        of_all = {"knn_purity": f"classes of at most {k} samples, which cannot reach 1: {small}" if small else ""}
        for metric, sample_values in values.items():
            basis = f"k={k}" if metric == "knn_purity" else ""
            alone = _alone(metric, samples.counts.count(1))
            note = _joined(basis, of_all.get(metric, ""), alone, sampled, empty)
            yield _mean(metric, sample_values, self.split, None, note)
            for label, count, part in self._classes(stage, samples, sample_values):
                fewer = f"only {count} samples" if metric == "knn_purity" and count <= k else ""
                note = _joined(basis, fewer, _alone(metric, 1) if count == 1 else "", sampled)
                yield _mean(metric, part, self.split, label, note)
        defined = [value for value in indices.dsi if not math.isnan(value)]
        note = _joined(_alone("dsi", len(indices.dsi) - len(defined)), sampled, empty)
        value = sum(defined) / len(defined) if defined else math.nan
        yield Measurement("dsi", value, self.split, n=len(samples.positions), note=note)
        for of_class, (label, count, _) in zip(indices.dsi, self._classes(stage, samples, indices.margin), strict=True):
            note = _joined(_alone("dsi", 1) if count == 1 else "", sampled)
            yield Measurement("dsi", of_class, self.split, label, n=count, note=note)

    @staticmethod
    def _classes(stage: StageData, samples: SortedSamples, values: Tensor) -> Iterator[tuple[str, int, Tensor]]:
        parts = zip(samples.classes, samples.counts, values.split(samples.counts), strict=True)
        return ((stage.classes[int(k)], count, part) for k, count, part in parts)

    def _gdv(self, stage: StageData, samples: SortedSamples, empty: str) -> Measurement:
        n = len(samples.positions)
        value, low, high, note = generalized_discrimination_value(samples.x, samples.counts, stage.memory_bytes)
        note = _joined(note, sample_note(stage, self.split, n), empty)
        return Measurement("gdv", value, self.split, low=low, high=high, n=n, note=note)

    def _from_scatter(self, stage: StageData, empty: str) -> Iterator[Measurement]:
        moments, spread = moments_of(stage, self.split), class_spread(stage, self.split)
        whole = moments.whole
        names = [stage.classes[int(k)] for k in whole.classes]
        counts = [int(count) for count in whole.counts.tolist()]
        for metric, (value, low, high) in scatter_indices(moments).items():
            note = _joined(_why_not_finite(value), moments.note, empty)
            yield Measurement(metric, value, self.split, low=low, high=high, n=whole.n, note=note)
        for name, count, (value, low, high) in zip(names, counts, fisher_of_classes(moments, spread), strict=True):
            note = _joined(_why_not_finite(value), moments.note)
            yield Measurement("fisher_ratio", value, self.split, name, low, high, count, note)

        ratios = davies_bouldin_ratios(whole.means, spread.distance)
        value = float(ratios.amax(1).mean())
        note = _joined(_why_not_finite(value), empty)
        yield Measurement("davies_bouldin", value, self.split, n=whole.n, note=note)

        pairs = closest_pairs(moments, spread, MOST_PAIRS)
        total = len(names) * (len(names) - 1) // 2
        fewer = f"one of the {len(pairs)} closest of {total:,} pairs" if len(pairs) < total else ""
        fisher = fisher_of_pairs(moments, spread, pairs)
        for (first, second), (value, low, high) in zip(pairs.tolist(), fisher, strict=True):
            pair, n = pair_of(names[first], names[second]), counts[first] + counts[second]
            note = _joined(_why_not_finite(value), fewer, moments.note)
            yield Measurement("fisher_ratio", value, self.split, pair, low, high, n, note)
            ratio = float(ratios[first, second])
            note = _joined(_why_not_finite(ratio), fewer)
            yield Measurement("davies_bouldin", ratio, self.split, pair, n=n, note=note)


def _mean(metric: str, values: Tensor, split: str, class_: str | None, note: str) -> Measurement:
    """Mean of the defined ``values`` of samples and its 95 % interval: Wilson's for a share of samples, else normal."""
    values = values[~torch.isnan(values)]
    n = len(values)
    if n == 0:
        return Measurement(metric, math.nan, split, class_, n=0, note=note)
    value = float(values.mean())
    low: float | None = None
    high: float | None = None
    if metric == "separability_index":
        low, high = wilson_interval(value, n)
    elif n > 1:
        half = Z95 * float(values.std()) / math.sqrt(n)
        low, high = max(value - half, 0.0 if metric == "knn_purity" else -1.0), min(value + half, 1.0)
    return Measurement(metric, value, split, class_, low, high, n, note)


def _alone(metric: str, classes: int) -> str:
    """What is said of classes that have one sample only."""
    said = {"silhouette": "counts as 0", "hypothesis_margin": "is left out", "dsi": "is left out"}
    if not classes or metric not in said:
        return ""
    which = "a class" if classes == 1 else f"each of {classes} classes"
    return f"{which} of one sample {said[metric]}"


def _empty_classes(stage: StageData, split: str, labels: np.ndarray) -> str:
    """The remark on classes without samples; raises ProbeError where fewer than two have any."""
    counts = np.bincount(labels, minlength=len(stage.classes))
    if np.count_nonzero(counts) < 2:
        raise ProbeError(
            f"stage {stage.name!r}: {split} holds one class only ({stage.classes[int(labels[0])]!r}); "
            "separability needs at least two"
        )
    empty = [repr(stage.classes[int(k)]) for k in np.flatnonzero(counts == 0)]
    if not empty:
        return ""
    named = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
    return f"no {split} sample of class {named}: left out"


def _why_not_finite(value: float) -> str:
    if math.isnan(value):
        return "undefined: the features do not vary"
    return "class means or whole classes coincide" if math.isinf(value) else ""


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
