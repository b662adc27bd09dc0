"""Neural collapse: do the classes shrink to their means, and do the means and the classifier form a simplex?"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lwexplain.errors import ProbeError
from lwexplain.probes.accuracy import wilson_interval
from lwexplain.probes.base import PROBES, Measurement, ProbeDefaults, StageData
from lwexplain.probes.jackknife import Bounds
from lwexplain.probes.linear.probe import fit_linear_probe
from lwexplain.probes.metrics import collapse as declared
from lwexplain.probes.moments import ClassMoments, moments_of
from lwexplain.probes.scatter_ratio import interval_of_scatter_ratio
from lwexplain.probes.splits import feature_blocks, float64_device, read_split, splits_of

EPSILON = torch.finfo(torch.float64).eps
HEAD_ROWS = 64
"""Samples on which a head's logits are compared with ``features @ weight.T + bias``."""


@PROBES.register("collapse")
class NeuralCollapse(ProbeDefaults):
    """The four signs of neural collapse (Papyan, Han and Donoho 2020, PNAS 117), each 0 where collapse is complete.

    On train, where it is defined, and on val. With M (K, D) the class means less their mean (every class weighs the
    same), S_W the covariance about the own class mean averaged over samples, S_B = M^T M / K:

    - ``nc1``: tr(S_W pinv(S_B)) / K, from 0 (variability inside classes is gone);
    - ``nc2``: the means against a simplex equiangular tight frame, in [0, sqrt(2)];
    - ``nc2_equinorm``: coefficient of variation of the lengths of the rows of M;
    - ``nc2_equiangularity``: standard deviation of the cosines of all pairs of rows of M, and ``nc2_maximal_angle``:
      their mean distance from -1 / (K - 1);
    - ``nc3``: squared distance of the classifier from M, both scaled to norm 1, in [0, 4];
    - ``nc4``: share of samples that the classifier and the nearest class mean of train do not give the same class.

    The classifier is the stage's own head where that is one linear layer on these features (``nc3``) or gives logits
    (``nc4``), else the linear probe; the note says which. Classes without a sample are left out and noted. The linear
    probe is regularised on standardised features, so that under full collapse its ``nc3`` is small rather than 0.
    Raises ProbeError where train is missing or a split holds fewer than two classes.

    ``nc1`` carries the jackknife interval of the population's value (``scatter_ratio``), ``nc4`` on val that of the
    share among new samples (Wilson; classifier and means of train are held fixed, which on train they were fitted to).
    ``nc2`` to ``nc3`` carry none: near 0, where they matter, the jackknife covers far less than it should.
    """

    name = "collapse"
    order = 90
    metrics = declared.METRICS

    def measure(self, stage: StageData) -> list[Measurement]:
        moments_of(stage, "train")
        classifier = linear_classifier(stage)
        rows: list[Measurement] = []
        for split in splits_of(stage, ("train", "val")):
            moments = moments_of(stage, split)
            whole = moments.whole
            if len(whole.classes) < 2:
                raise ProbeError(
                    f"stage {stage.name!r}: {split} holds one class only ({stage.classes[int(whole.classes[0])]!r}); "
                    "neural collapse needs at least two"
                )
            absent = [name for k, name in enumerate(stage.classes) if k not in whole.classes]
            common = [stage.note(split), f"classes without samples left out: {', '.join(absent)}" if absent else ""]
            weight = classifier.weight.to(whole.means)
            value = within_class_variability(whole)
            bounds: Bounds = None, None
            reason = why_not_finite(value, whole, weight)
            if 0 < value < math.inf:
                bounds, reason = interval_of_scatter_ratio(moments, _contrasts(len(whole.counts)), by_count=False)
            note = "; ".join(filter(None, [reason, *common]))
            low, high = bounds
            rows.append(Measurement("nc1", value, split, low=low, high=high, n=whole.n, note=note))
            without_interval = {
                "nc2": distance_from_simplex(whole),
                "nc2_equinorm": variation_of_norms(whole),
                "nc2_equiangularity": spread_of_cosines(whole),
                "nc2_maximal_angle": distance_of_cosines(whole),
                "nc3": distance_from_classifier(whole, weight),
            }
            for metric, value in without_interval.items():
                remark = classifier.source if metric == "nc3" else ""
                reason = why_not_finite(value, whole, weight)
                note = "; ".join(filter(None, [reason, remark, *common]))
                rows.append(Measurement(metric, value, split, n=whole.n, note=note))
            share, source = disagreement_with_nearest_mean(stage, split)
            low, high = wilson_interval(share, whole.n) if split != "train" else (None, None)
            note = "; ".join(filter(None, [source, *common]))
            rows.append(Measurement("nc4", share, split, low=low, high=high, n=whole.n, note=note))
        return rows


# ---------------------------------------------------------------------- functions of the class moments


def class_means(moments: ClassMoments) -> Tensor:
    """M (K, D): the class means less their mean, exactly 0 where they differ by rounding only."""
    means = moments.means - moments.means.mean(0)
    return means if float(means.norm()) > _rounding(moments) else torch.zeros_like(means)


def within_class_variability(moments: ClassMoments) -> float:
    """NC1 = tr(S_W pinv(S_B)) / K (Papyan et al. 2020, Fig. 6); infinite where all class means coincide.

    S_B has rank K - 1 at most. Its pseudo-inverse is taken in an orthonormal basis of that many combinations of the
    means, so that no direction of rounding is inverted.
    """
    means = _contrasts(len(moments.classes)).to(moments.means) @ moments.means  # (K - 1, D), the same M^T M
    if float(means.norm()) <= _rounding(moments):
        return math.inf if float(moments.within.trace()) > 0 else math.nan
    inverse = torch.linalg.pinv(means, atol=_rounding(moments), rtol=max(means.shape) * EPSILON)
    # pinv(S_B) = K P P^T with P (D, K - 1) the pseudo-inverse of the means, and the K goes away with the 1 / K
    return float((inverse.T @ moments.within * inverse.T).sum() / moments.n)


def distance_from_simplex(moments: ClassMoments) -> float:
    """NC2 = || M M^T / ||M M^T||_F - (I - 11^T / K) / sqrt(K - 1) ||_F (Zhu et al. 2021, of the means)."""
    means = class_means(moments)
    k = len(means)
    simplex = (torch.eye(k) - 1 / k).to(means) / math.sqrt(k - 1)
    gram = means @ means.T
    return float((gram / gram.norm() - simplex).norm())


def variation_of_norms(moments: ClassMoments) -> float:
    """Std over classes of ||mu_k - mu_G|| divided by its mean (Papyan et al. 2020, Fig. 2)."""
    norms = class_means(moments).norm(dim=1)
    return float(norms.std(correction=0) / norms.mean())


def spread_of_cosines(moments: ClassMoments) -> float:
    """Std over pairs of classes of the cosine between their rows of M (Papyan et al. 2020, Fig. 3)."""
    return float(_cosines(moments).std(correction=0))


def distance_of_cosines(moments: ClassMoments) -> float:
    """Mean over pairs of classes of |cosine + 1 / (K - 1)| (Papyan et al. 2020, Fig. 4)."""
    return float((_cosines(moments) + 1 / (len(moments.classes) - 1)).abs().mean())


def distance_from_classifier(moments: ClassMoments, weight: Tensor) -> float:
    """NC3 = || W / ||W||_F - M / ||M||_F ||_F^2 for ``weight`` W (K, D) of all classes (Papyan et al. 2020, Fig. 5)."""
    means = class_means(moments)
    weight = weight[torch.from_numpy(moments.classes).to(weight.device)]
    return float((weight / weight.norm() - means / means.norm()).square().sum())


def _cosines(moments: ClassMoments) -> Tensor:
    """Cosines (K (K - 1) / 2,) of the pairs of rows of M."""
    means = class_means(moments)
    means = means / means.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(len(means), len(means), offset=1)
    return (means @ means.T)[first, second]


def _rounding(moments: ClassMoments) -> float:
    """How far apart means of equal samples may come out."""
    return EPSILON * moments.n * float(moments.means.norm(dim=1).max())


def _contrasts(k: int) -> Tensor:
    """Orthonormal rows (K - 1, K) that are orthogonal to the ones (Helmert)."""
    rows = torch.ones(k - 1, k, dtype=torch.float64).tril()
    place = torch.arange(1, k, dtype=torch.float64)
    rows[torch.arange(k - 1), torch.arange(1, k)] = -place
    return rows / (place * (place + 1)).sqrt()[:, None]


def why_not_finite(value: float, moments: ClassMoments, weight: Tensor) -> str:
    """Why an index of these moments and of a classifier's ``weight`` is NaN or infinite; "" where it is neither."""
    if math.isfinite(value):
        return ""
    if not float(moments.within.trace()) > 0 and not float(class_means(moments).norm()) > 0:
        return "undefined: the features do not vary"
    if not float(class_means(moments).norm()) > 0:
        return f"{'undefined: ' if math.isnan(value) else ''}all class means coincide"
    if bool((class_means(moments).norm(dim=1) == 0).any()):
        return "undefined: a class mean lies at the mean of all, where it has no direction"
    return "undefined: the classifier is zero" if not float(weight.norm()) > 0 else "undefined: rounding"


# ---------------------------------------------------------------------- the classifier


@dataclass(frozen=True)
class Classifier:
    """``weight`` (K, D) float64 of a linear classifier on the features, and what it is."""

    weight: Tensor
    source: str


def linear_classifier(stage: StageData) -> Classifier:
    """The stage's head where it is one linear layer on the features as they are, else the linear probe.

    Whether it is, the logits that it gave for some samples say. Raises ProbeError as ``fit_linear_probe`` does.
    """
    layer = _only_linear_layer(stage)
    if layer is not None and _gave_the_logits(stage, layer):
        return Classifier(layer.weight.detach().double().cpu(), "classifier: the stage's head")
    return Classifier(fit_linear_probe(stage).weight, "classifier: the linear probe")


def _only_linear_layer(stage: StageData) -> nn.Linear | None:
    """The one layer of a head that holds all its parameters, if it is linear and fits the features and classes."""
    if not isinstance(stage.head, nn.Module):
        return None
    layers = [module for module in stage.head.modules() if next(module.parameters(recurse=False), None) is not None]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        return None
    fits = tuple(layers[0].weight.shape) == (len(stage.classes), stage.features["train"].shape[1])
    return layers[0] if fits else None


def _gave_the_logits(stage: StageData, layer: nn.Linear) -> bool:
    split = next((split for split in ("train", "val") if split in stage.logits and split in stage.features), None)
    if split is None:
        return False
    given = np.array(stage.logits[split][:HEAD_ROWS], dtype=np.float64)
    features = torch.from_numpy(np.array(stage.features[split][:HEAD_ROWS], dtype=np.float64))
    bias = None if layer.bias is None else layer.bias.detach().double().cpu()
    logits = nn.functional.linear(features, layer.weight.detach().double().cpu(), bias).numpy()
    return bool(np.allclose(logits, given, rtol=1e-3, atol=1e-3 * float(np.abs(given).max())))


def disagreement_with_nearest_mean(stage: StageData, split: str) -> tuple[float, str]:
    """NC4 (Papyan et al. 2020, Fig. 7) and what the classifier was: the share, in [0, 1], of the samples of a split
    whose class by the classifier is not that of the nearest class mean of train (Euclidean)."""
    features, labels = read_split(stage, split)
    train = moments_of(stage, "train").whole
    if split in stage.logits:
        source, probe = "classifier: the stage's head", None
        if len(stage.logits[split]) != len(labels):
            raise ProbeError(
                f"stage {stage.name!r}: {len(stage.logits[split])} rows of logits for {len(labels)} {split} samples"
            )
    else:
        source, probe = "classifier: the linear probe", fit_linear_probe(stage)
    centre = train.mean
    means = train.means - centre
    different = 0
    for at, block in feature_blocks(features):
        x = torch.from_numpy(block).to(float64_device(stage.device)).double() - centre
        distances = means.square().sum(1) - 2 * x @ means.T  # less |x|^2, which is the same for every class
        nearest = train.classes[distances.argmin(1).cpu().numpy()]
        logits = stage.logits[split][at] if probe is None else probe.logits(block)
        different += int((np.asarray(logits).argmax(1) != nearest).sum())
    return different / len(labels), source
