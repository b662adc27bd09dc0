"""Separability as a training target: what the thesis measures after each stage, maximised by the stage itself."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lwexplain.errors import ConfigError
from lwexplain.models.heads.base import pooled
from lwexplain.registry import nearest
from lwexplain.training.distributed import all_rows
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting

SMOOTHING = 1e-3
"""Share of the total scatter added to both scatters, so that neither logarithm is of 0."""

ROUNDING = 1e-12
"""Share of the features' squares below which a squared distance is rounding of float32."""


@LOSSES.register("separability")
class Separability(LocalLoss):
    """Separability of the stage's own features by distance, over the batch (cf. Karimi and Kalhor 2024).

    ``measure``: how it is measured,

    - ``margin``: a hinge on how much nearer the nearest sample of the own class is than that of another. The
      separability index counts the samples where it is; ``margin`` is what is asked for. See ``margin_loss``;
    - ``fisher``: log tr(S_w) - log tr(S_b), the Fisher ratio of the probe ``separability`` turned round (Fukunaga
      1990, ch. 10). See ``fisher_loss``. With more than two classes it is a poor thing to learn from: one direction
      that parts a few classes widely wins the ratio, and the others fall together.

    Neither depends on the scale of the features. Maps (C, H, W) are averaged to ``grid`` x ``grid`` positions (fewer
    where the map is smaller) and flattened; of tokens (T, D) those are taken that the network's own head reads. A batch
    of one class, or without two samples of a class, has a finite value and no gradient.
    """

    reads_logits = False
    compares_samples = True

    def __init__(self, setting: LossSetting, *, measure: str = "margin", grid: int = 2, margin: float = 0.5) -> None:
        super().__init__()
        if measure not in ("margin", "fisher"):
            hint = nearest(str(measure), ["margin", "fisher"])
            raise ConfigError(f"training.loss_options.measure={measure!r} is not a measure; {hint}")
        if isinstance(grid, bool) or not isinstance(grid, int) or grid < 1:
            raise ConfigError(f"training.loss_options.grid={grid!r} must be a whole number of at least 1")
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin <= 1:
            raise ConfigError(f"training.loss_options.margin={margin!r} must be a number above 0 and up to 1")
        self.num_classes, self.tokens = setting.site.num_classes, setting.site.tokens
        self.measure, self.grid, self.margin = measure, grid, margin

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        rows, labels = all_rows(self.describe(features)), all_rows(labels)
        with torch.autocast(rows.device.type, enabled=False):
            if self.measure == "fisher":
                return fisher_loss(rows, labels, self.num_classes)
            return margin_loss(rows, labels, self.margin)

    def describe(self, features: Tensor) -> Tensor:
        """What stands for each sample: (N, D) float32."""
        features = features.float()
        if features.ndim != 4:
            return pooled(features, self.tokens)
        height, width = (min(self.grid, side) for side in features.shape[2:])
        return F.adaptive_avg_pool2d(features, (height, width)).flatten(1)


def fisher_loss(rows: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """log(w + e) - log(b + e) of the shares of the scatter within (w) and between (b = 1 - w) classes.

    b = sum over classes of n_k |m_k - m|^2 / sum over samples of |x - m|^2, e = ``SMOOTHING``; so the value is
    log tr(S_w) / tr(S_b) up to e, and lies within -7 and 7. ``rows`` (N, D), ``labels`` (N,). Rows that are all
    equal give 0 without a gradient.
    """
    centred = rows - rows.mean(0)
    members = F.one_hot(labels, num_classes).to(rows.dtype)
    counts = members.sum(0)
    means = members.T @ centred / counts.clamp_min(1)[:, None]
    total = centred.square().sum()
    between = (counts * means.square().sum(1)).sum()
    flat = total <= ROUNDING * rows.detach().square().sum()
    share = torch.where(flat, 0.5, between / torch.where(flat, 1.0, total))
    return torch.log(1 - share + SMOOTHING) - torch.log(share + SMOOTHING)


def margin_loss(rows: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of max(0, ``margin`` - t), t = (miss - hit) / (miss + hit) in [-1, 1].

    hit and miss are the squared distances of a sample to the nearest other sample of its class and to the nearest
    one of another class: the hypothesis margin (Crammer et al. 2002, "Margin analysis of the LVQ algorithm") made
    free of scale (Sato and Yamada 1996, "Generalized learning vector quantization"). Squares, because a distance
    of 0 has no finite slope. ``rows`` (N, D), ``labels`` (N,). Samples without a hit or a miss are left out; a sample
    on both has t = 0.
    """
    with torch.no_grad():
        centred = rows - rows.mean(0)
        squares = centred.square().sum(1)
        distances = squares[:, None] + squares - 2 * centred @ centred.T
        same = labels[:, None] == labels
        others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        nearest_hit = distances.masked_fill(~(same & others), torch.inf).argmin(1)
        nearest_miss = distances.masked_fill(same, torch.inf).argmin(1)
        counts = (same & others).any(1) & (~same).any(1)
    hit = (rows - rows[nearest_hit]).square().sum(1)
    miss = (rows - rows[nearest_miss]).square().sum(1)
    together = hit + miss <= ROUNDING * rows.detach().square().sum(1)
    relative = torch.where(together, 0.0, (miss - hit) / torch.where(together, 1.0, hit + miss))
    hinge = F.relu(margin - relative)
    return torch.where(counts, hinge, 0.0).sum() / counts.sum().clamp_min(1)
