"""How well the classes are separated, without any classifier being fitted."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lwexplain.errors import ProbeError
from lwexplain.probes.base import PROBES, Measurement, ProbeDefaults, StageData, pair_of
from lwexplain.probes.jackknife import (
    FEWEST,
    T_OF_PAIRS,
    T_QUANTILE,
    Bounds,
    error_of_pairs,
    interval_at_this_size,
    interval_of_share,
    jackknife_error,
)
from lwexplain.probes.metrics import separability as declared
from lwexplain.probes.moments import ClassMoments, moments_of
from lwexplain.probes.neighbourhood import copies_note
from lwexplain.probes.separability.discrimination import generalized_discrimination_value
from lwexplain.probes.separability.pairwise import (
    PairwiseIndices,
    SortedSamples,
    nearest_agreement,
    pairwise_indices,
    sorted_samples,
)
from lwexplain.probes.separability.scatter import (
    class_spread,
    closest_pairs,
    davies_bouldin_ratios,
    fisher_of_classes,
    fisher_of_pairs,
    interval_of_law,
    scatter_indices,
)
from lwexplain.probes.splits import read_split
from lwexplain.probes.subsample import sample_note

MOST_PAIRS = 190
"""Most pairs of classes that have rows of their own: all pairs of 20 classes."""


@PROBES.register("separability")
class Separability(ProbeDefaults):
    """Separability indices of the features of one split as they are; only the GDV standardises them.

    - ``separability_index``, ``knn_purity``, ``silhouette``, ``hypothesis_margin`` and ``dsi`` (see
      ``pairwise.PairwiseIndices``) of all samples and of each class, ``gdv`` of all, from all pairwise distances;
    - ``fisher_ratio`` of all samples, of each class and of pairs of classes, ``davies_bouldin`` of all and of pairs,
      ``calinski_harabasz`` and ``separation_law`` of all, from the scatter of the classes (see ``scatter``).

    Of more than 20 classes there are rows for the 190 pairs that are closest by their Fisher ratio. Classes without a
    sample are left out; pairwise distances are those of at most 10,000 samples (``subsample.pairwise_samples``), and
    copies of a sample count once in them: they are no neighbours of each other, whatever their labels (``copies``). All
    is noted. Memory grows with N, not with N^2. Raises ProbeError for fewer than two classes, or NaN.

    Intervals are by the jackknife (``separability_index``: by ``jackknife.error_of_pairs``), the classes in the
    proportions of the split. Those of ``gdv``, ``fisher_ratio``,
    ``calinski_harabasz`` (at this N) and ``separation_law`` are of the population's value; those of
    ``separability_index``, ``knn_purity``, ``silhouette`` and ``hypothesis_margin`` of the mean over samples of this
    size, as neighbours come nearer the more samples there are. ``dsi`` and ``davies_bouldin`` carry none: a maximum
    over distances or classes is not smooth, and the jackknife fails on it.
    """

    name = "separability"
    order = 80
    metrics = declared.METRICS

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
        k, n = indices.k, len(samples.positions)
        copies = copies_note(samples.copies, n + samples.copies)
        sampled = sample_note(stage, self.split, n + samples.copies)
        small = sum(count <= k for count in samples.counts)
        values = {
            "separability_index": indices.agreement,
            "knn_purity": indices.purity,
            "silhouette": indices.silhouette,
            "hypothesis_margin": indices.margin,
        }
        of_all = {"knn_purity": f"classes of at most {k} samples, which cannot reach 1: {small}" if small else ""}
        for metric, sample_values in values.items():
            errors = {}
            if metric == "separability_index":
                errors = _errors_of_pairs(samples, indices.agreement, indices.nearest)
            basis = f"k={k}" if metric == "knn_purity" else ""
            alone = _alone(metric, samples.counts.count(1))
            note = _join_notes(basis, of_all.get(metric, ""), alone, copies, sampled, empty)
            yield _mean(metric, sample_values, self.split, None, note, errors.get(None))
            for place, (label, count, part) in enumerate(self._classes(stage, samples, sample_values)):
                fewer = f"only {count} samples" if metric == "knn_purity" and count <= k else ""
                note = _join_notes(basis, fewer, _alone(metric, 1) if count == 1 else "", copies, sampled)
                yield _mean(metric, part, self.split, label, note, errors.get(place))
        defined = [value for value in indices.dsi if not math.isnan(value)]
        note = _join_notes(_alone("dsi", len(indices.dsi) - len(defined)), copies, sampled, empty)
        value = sum(defined) / len(defined) if defined else math.nan
        yield Measurement("dsi", value, self.split, n=n, note=note)
        for of_class, (label, count, _) in zip(indices.dsi, self._classes(stage, samples, indices.margin), strict=True):
            note = _join_notes(_alone("dsi", 1) if count == 1 else "", copies, sampled)
            yield Measurement("dsi", of_class, self.split, label, n=count, note=note)

    @staticmethod
    def _classes(stage: StageData, samples: SortedSamples, values: Tensor) -> Iterator[tuple[str, int, Tensor]]:
        parts = zip(samples.classes, samples.counts, values.split(samples.counts), strict=True)
        return ((stage.classes[int(k)], count, part) for k, count, part in parts)

    def _gdv(self, stage: StageData, samples: SortedSamples, empty: str) -> Measurement:
        n = len(samples.positions)
        value, low, high, note = generalized_discrimination_value(samples.x, samples.counts, stage.memory_bytes)
        total = n + samples.copies
        note = _join_notes(note, copies_note(samples.copies, total), sample_note(stage, self.split, total), empty)
        return Measurement("gdv", value, self.split, low=low, high=high, n=n, note=note)

    def _from_scatter(self, stage: StageData, empty: str) -> Iterator[Measurement]:
        moments, spread = moments_of(stage, self.split), class_spread(stage, self.split)
        whole = moments.whole
        names = [stage.classes[int(k)] for k in whole.classes]
        counts = [int(count) for count in whole.counts.tolist()]
        for metric, (value, low, high) in scatter_indices(moments).items():
            reason = interval_of_law(moments)[1] if metric == "separation_law" else moments.note
            note = _join_notes(_why_not_finite(metric, value, whole), reason, empty)
            yield Measurement(metric, value, self.split, low=low, high=high, n=whole.n, note=note)
        for name, count, (value, low, high) in zip(names, counts, fisher_of_classes(moments, spread), strict=True):
            reason = (
                "infinite: the class has one sample" if count == 1 else "infinite: the samples of the class coincide"
            )
            note = _join_notes(_reason(value, reason), moments.note)
            yield Measurement("fisher_ratio", value, self.split, name, low, high, count, note)

        ratios = davies_bouldin_ratios(whole.means, spread.distance)
        value = float(ratios.amax(1).mean())
        same_mean = "infinite: the means of two classes coincide"
        note = _join_notes(_reason(value, same_mean), empty)
        yield Measurement("davies_bouldin", value, self.split, n=whole.n, note=note)

        pairs = closest_pairs(moments, spread, MOST_PAIRS)
        total = len(names) * (len(names) - 1) // 2
        fewer = f"one of the {len(pairs)} closest of {total:,} pairs" if len(pairs) < total else ""
        fisher = fisher_of_pairs(moments, spread, pairs)
        for (first, second), (value, low, high) in zip(pairs.tolist(), fisher, strict=True):
            pair, n = pair_of(names[first], names[second]), counts[first] + counts[second]
            note = _join_notes(_reason(value, _no_scatter(n, 2)), fewer, moments.note)
            yield Measurement("fisher_ratio", value, self.split, pair, low, high, n, note)
            ratio = float(ratios[first, second])
            note = _join_notes(_reason(ratio, same_mean), fewer)
            yield Measurement("davies_bouldin", ratio, self.split, pair, n=n, note=note)


def separability_index(stage: StageData, split: str = "val") -> Measurement:
    """The index of all samples as ``Separability`` measures it, without the other indices: in a fraction of the time.

    Raises ProbeError as ``Separability`` does.
    """
    empty = _empty_classes(stage, split, read_split(stage, split)[1])
    samples = sorted_samples(stage, split)
    agreement, nearest = nearest_agreement(samples)
    n, own = len(samples.positions), samples.own.cpu().numpy()
    error = error_of_pairs(_deviations(agreement, own), nearest.cpu().numpy(), n)
    notes = copies_note(samples.copies, n + samples.copies), sample_note(stage, split, n + samples.copies), empty
    return _mean("separability_index", agreement, split, None, _join_notes(*notes), error)


def _mean(
    metric: str, values: Tensor, split: str, class_: str | None, note: str, error: float | None = None
) -> Measurement:
    """Mean of the defined ``values`` (n, 1 + GROUPS) of samples, and its 95 % interval from those without a group, or
    from its standard ``error``."""
    values = values[~torch.isnan(values[:, 0])]
    n = len(values)
    if n == 0:
        return Measurement(metric, math.nan, split, class_, n=0, note=note)
    value, *replicates = values.nanmean(0).tolist()
    bounds: Bounds = None, None
    if n < FEWEST:
        note = _join_notes(note, f"no interval: fewer than {FEWEST} samples")
    elif error is not None:
        bounds = interval_of_share(value, error, n, T_OF_PAIRS)
    elif metric == "knn_purity":
        bounds = interval_of_share(value, jackknife_error(replicates), n, T_QUANTILE)
    else:
        low, high = interval_at_this_size(value, replicates)
        bounds = (None, None) if low is None or high is None else (max(low, -1.0), min(high, 1.0))
    return Measurement(metric, value, split, class_, low=bounds[0], high=bounds[1], n=n, note=note)


def _errors_of_pairs(samples: SortedSamples, agreement: Tensor, nearest: Tensor) -> dict[int | None, float]:
    """Standard error of the separability index of all samples (None) and of each class, by its number."""
    own, others = samples.own.cpu().numpy(), nearest.cpu().numpy()
    deviations = _deviations(agreement, own)
    errors: dict[int | None, float] = {None: error_of_pairs(deviations, others, len(own))}
    for k, count in enumerate(samples.counts):
        errors[k] = error_of_pairs(np.where(own == k, deviations, 0.0), others, count)
    return errors


def _deviations(agreement: Tensor, own: np.ndarray) -> np.ndarray:
    """How far the agreement of each sample (n,) is from the mean of its class."""
    values = agreement[:, 0].cpu().numpy()
    return values - (np.bincount(own, values) / np.bincount(own))[own]


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


def _why_not_finite(metric: str, value: float, moments: ClassMoments) -> str:
    """Why an index of the scatter of all classes is NaN or infinite; "" where it is neither."""
    if metric == "separation_law":
        return _reason(value, "infinite: all class means coincide")
    singletons = moments.n == len(moments.counts)
    if singletons and metric == "calinski_harabasz":
        return _reason(value, "", undefined="undefined: as many classes as samples")
    return _reason(value, _no_scatter(moments.n, len(moments.counts)))


def _no_scatter(samples: int, classes: int) -> str:
    """Why nothing is scattered inside ``classes`` of so many ``samples``."""
    return f"infinite: {'every class has one sample' if samples == classes else 'the samples of every class coincide'}"


def _reason(value: float, infinite: str, undefined: str = "undefined: the features do not vary") -> str:
    if math.isnan(value):
        return undefined
    return infinite if math.isinf(value) else ""


def _join_notes(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
