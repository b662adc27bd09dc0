"""How well the classes are separated by distance, without any classifier being fitted."""

import math

import numpy as np
import torch

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import wilson_interval
from lwexplain.probes.base import PROBES, Measurement, StageData
from lwexplain.probes.distances import ROUNDING, squared_distance_blocks
from lwexplain.probes.splits import as_float64, read_split


@PROBES.register("separability")
class Separability:
    """Separability index, Fisher ratio, silhouette, Davies-Bouldin, Calinski-Harabasz and GDV.

    On the features of one split as they are; only the GDV standardises them, by its definition. Memory grows
    with N, not with N^2. Raises ProbeError for fewer than two classes, a class without samples, or NaN.
    """

    name = "separability"

    def __init__(self, split: str = "val") -> None:
        self.split = split

    def measure(self, stage: StageData) -> list[Measurement]:
        features, labels = read_split(stage, self.split)
        _check_classes(stage, self.split, labels)
        order = np.argsort(labels, kind="stable")
        x = as_float64(features[order], stage.device)
        counts = np.bincount(labels, minlength=len(stage.classes)).tolist()
        n = len(labels)

        index, silhouette = separability_index_and_silhouette(x, counts)
        within, between = scatter(x, counts)
        values = {
            "fisher_ratio": fisher_ratio(within, between),
            "silhouette": silhouette,
            "davies_bouldin": davies_bouldin(x, counts),
            "calinski_harabasz": calinski_harabasz(within, between, n, len(counts)),
        }
        low, high = wilson_interval(index, n)
        rows = [Measurement("separability_index", index, self.split, low=low, high=high, n=n)]
        for metric, value in values.items():
            rows.append(Measurement(metric, value, self.split, n=n, note=_why_not_finite(value)))
        gdv, note = generalized_discrimination_value(x, counts)
        rows.append(Measurement("gdv", gdv, self.split, n=n, note=note))
        return rows


def separability_index_and_silhouette(x: torch.Tensor, counts: list[int]) -> tuple[float, float]:
    """Separability index and mean silhouette of ``x`` (N, D) float64, rows sorted by class.

    Separability index: share of samples whose nearest other sample has their label, in [0, 1] (Thornton 2002,
    "Truth from trash"). Where several are equally near, their share with the same label counts, so that the
    value does not depend on the order of the samples.

    Silhouette: mean of (b - a) / max(a, b), in [-1, 1]; a = mean distance to the own class, b = smallest mean
    distance to another class; 0 for the only sample of a class (Rousseeuw 1987).
    """
    labels, members = _membership(x, counts)
    sizes = members.sum(0)
    norms = (x - x.mean(0)).square().sum(1)
    agreement = torch.zeros((), dtype=x.dtype, device=x.device)
    silhouette = torch.zeros((), dtype=x.dtype, device=x.device)
    for rows, d2 in squared_distance_blocks(x):
        own = labels[rows]
        here = torch.arange(len(d2), device=x.device)

        sums = d2.sqrt() @ members
        a = sums[here, own] / (sizes[own] - 1).clamp(min=1)
        means = sums / sizes
        means[here, own] = torch.inf
        b = means.amin(1)
        s = (b - a) / torch.maximum(a, b).clamp(min=torch.finfo(x.dtype).tiny)
        silhouette += torch.where(sizes[own] > 1, s, torch.zeros_like(s)).sum()

        d2[here, here + rows.start] = torch.inf
        nearest = d2.amin(1, keepdim=True)
        sample, neighbour = (d2 <= nearest + ROUNDING * (norms[rows, None] + nearest)).nonzero(as_tuple=True)
        same = (own[sample] == labels[neighbour]).to(x.dtype)
        agreement += (torch.bincount(sample, weights=same) / torch.bincount(sample)).sum()
    return float(agreement / len(x)), float(silhouette / len(x))


def scatter(x: torch.Tensor, counts: list[int]) -> tuple[float, float]:
    """tr(Sw) and tr(Sb): sums over samples of squared distances to the class mean, and of class means to the
    mean of all (each class weighted by its size). ``x`` (N, D) sorted by class."""
    mean = x.mean(0)
    within = between = 0.0
    for part in x.split(counts):
        centre = part.mean(0)
        within += float((part - centre).square().sum())
        between += len(part) * float((centre - mean).square().sum())
    return within, between


def fisher_ratio(within: float, between: float) -> float:
    """tr(Sb) / tr(Sw); infinite where every class is one point (Fukunaga 1990, ch. 10)."""
    return _ratio(between, within)


def calinski_harabasz(within: float, between: float, n: int, k: int) -> float:
    """[tr(Sb) / (K - 1)] / [tr(Sw) / (N - K)] (Calinski and Harabasz 1974)."""
    return _ratio(between * (n - k), within * (k - 1))


def davies_bouldin(x: torch.Tensor, counts: list[int]) -> float:
    """Mean over classes of max (s_l + s_m) / d_lm; s = mean distance to the class mean, d between the means.

    Lower is better; infinite where two class means coincide (Davies and Bouldin 1979).
    """
    parts = x.split(counts)
    centres = torch.stack([part.mean(0) for part in parts])
    spread = torch.stack([(part - centre).norm(dim=1).mean() for part, centre in zip(parts, centres, strict=True)])
    distances = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    ratios = (spread[:, None] + spread) / distances
    ratios = torch.where(distances > 0, ratios, torch.full_like(ratios, torch.inf))
    ratios.fill_diagonal_(-torch.inf)
    return float(ratios.amax(1).mean())


def generalized_discrimination_value(x: torch.Tensor, counts: list[int]) -> tuple[float, str]:
    """GDV and a note: -1 for perfectly separated classes, 0 for classes that do not differ.

    GDV = D^(-1/2) [ mean over classes of the mean distance inside - mean over pairs of classes of the mean
    distance between ], on features z-scored and halved (Schilling et al. 2021, Neural Networks 139, eq. 1-4).
    D counts the dimensions that vary; constant ones are left out, as they have no z-score. Classes of one
    sample have no distance inside and are left out of the first mean. ``x`` (N, D) sorted by class.
    """
    std, mean = torch.std_mean(x, dim=0, correction=0)
    varies = std > 1e-7 * mean.abs()
    if not varies.any():
        return 0.0, "every feature is constant"
    z = 0.5 * (x[:, varies] - mean[varies]) / std[varies]
    _, members = _membership(x, counts)
    totals = torch.zeros(len(counts), len(counts), dtype=x.dtype, device=x.device)
    for rows, d2 in squared_distance_blocks(z):
        totals += members[rows].T @ (d2.sqrt_() @ members)
    sizes = members.sum(0)
    several = sizes > 1
    if not several.any():
        return math.nan, "every class has one sample only"
    inside = (totals.diagonal() / (sizes * (sizes - 1)))[several].mean()
    pairs = (totals / (sizes[:, None] * sizes)).triu(1).sum() / (len(counts) * (len(counts) - 1) / 2)
    notes = []
    if not varies.all():
        notes.append(f"{int((~varies).sum())} of {len(varies)} features are constant and left out")
    if not several.all():
        notes.append(f"{int((~several).sum())} classes of one sample have no distance inside")
    return float((inside - pairs) / math.sqrt(z.shape[1])), "; ".join(notes)


def _membership(x: torch.Tensor, counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (N,) and their one-hot form (N, K) for rows sorted by class."""
    labels = torch.repeat_interleave(torch.tensor(counts)).to(x.device)
    return labels, torch.nn.functional.one_hot(labels, len(counts)).to(x.dtype)


def _check_classes(stage: StageData, split: str, labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(stage.classes))
    if np.count_nonzero(counts) < 2:
        raise ProbeError(
            f"stage {stage.name!r}: {split} holds one class only ({stage.classes[int(labels[0])]!r}); "
            "separability needs at least two"
        )
    if not counts.all():
        empty = ", ".join(repr(stage.classes[int(k)]) for k in np.flatnonzero(counts == 0))
        raise ProbeError(f"stage {stage.name!r}: no {split} sample of class {empty}; use more samples or fewer classes")


def _ratio(top: float, bottom: float) -> float:
    if bottom > 0:
        return top / bottom
    return math.inf if top > 0 else math.nan


def _why_not_finite(value: float) -> str:
    if math.isnan(value):
        return "undefined: the features do not vary"
    return "class means or whole classes coincide" if math.isinf(value) else ""
