"""InfoPro: early stages keep what the image says, later ones keep what its class needs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwexplain.errors import ConfigError, ModelError
from lwexplain.models.site import Site
from lwexplain.registry import nearest
from lwexplain.training.distributed import all_rows
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting
from lwexplain.training.losses.cross_entropy import CrossEntropy

PROJECTION = 128
"""Size of the rows that are contrasted (Wang et al. 2021)."""


@LOSSES.register("infopro")
class InfoPro(LocalLoss):
    """InfoPro: reconstruct the image early, tell the classes apart late (Wang et al. 2021).

    r * reconstruction + d * discrimination, with weights that go linearly from the first stage to the last but one;
    the last stage has plain cross-entropy. Features must be maps (C, H, W), except at the last stage.

    - ``reconstruction``: [first, last] of r. A decoder (bilinear up to the size of the image, 3x3 convolution to 12
      channels, batch norm, ReLU, 3x3 convolution, sigmoid) and binary cross-entropy to the pixels in [0, 1];
    - ``discrimination``: [first, last] of d;
    - ``kind``: how classes are told apart. ``contrast``: supervised contrastive loss with ``temperature`` on a
      projection of its own (3x3 convolution, batch norm, ReLU, average pool, linear 128, ReLU, linear 128).
      ``softmax``: cross-entropy of the head's logits, d being the part of it that reaches the stage.

    The authors' weights for ResNet-110 in 4 parts are r from 1 to 0 and d from 0 to 1. Here d starts at 0.1, which
    they use for 2 parts: at 0 the first stage, the only local one of a network of two, would never see a label, and
    here each depth is one to stop at.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        setting: LossSetting,
        *,
        kind: str = "contrast",
        temperature: float = 0.07,
        reconstruction: Sequence[float] = (1.0, 0.0),
        discrimination: Sequence[float] = (0.1, 1.0),
    ) -> None:
        super().__init__()
        if kind not in ("contrast", "softmax"):
            hint = nearest(str(kind), ["contrast", "softmax"])
            raise ConfigError(f"training.loss_options.kind={kind!r} is not a kind of discrimination; {hint}")
        if not _is_weight(temperature) or temperature == 0:
            raise ConfigError(f"training.loss_options.temperature={temperature!r} must be a number above 0")
        site = setting.site
        self.temperature = temperature
        self.register_buffer("mean", torch.tensor(setting.mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(setting.std).reshape(1, -1, 1, 1), persistent=False)
        self.reconstruction = _weight_at(site, "reconstruction", reconstruction)
        self.discrimination = _weight_at(site, "discrimination", discrimination)
        if site.last:
            kind, self.reconstruction, self.discrimination = "softmax", 0.0, 1.0
        elif len(site.shape) != 3:
            raise ModelError(
                f"training.loss=infopro needs maps (C, H, W), found features {site.shape} after stage {site.depth}; "
                "use training.loss=predsim"
            )
        elif self.reconstruction == self.discrimination == 0:
            raise ConfigError(
                f"training.loss_options: reconstruction={reconstruction!r} and discrimination={discrimination!r} are "
                f"both 0 at stage {site.depth}, which would learn nothing; raise one of them"
            )
        contrasts = kind == "contrast" and self.discrimination > 0
        self.decoder = _decoder(site) if self.reconstruction > 0 else None
        self.projection = _projection(site) if contrasts else None
        self.cross_entropy = CrossEntropy(setting)
        self.reads_logits = kind == "softmax" and self.discrimination > 0
        self.logits_share = self.discrimination
        self.compares_samples = contrasts
        self.uses_images = self.decoder is not None

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        loss = torch.zeros((), device=features.device)
        if self.decoder is not None:
            pixels = (images.float() * self.std + self.mean).clamp(0, 1)  # as before they were normalised
            enlarged = F.interpolate(features, pixels.shape[2:], mode="bilinear", align_corners=True)
            found = self.decoder(enlarged).float()
            loss = loss + self.reconstruction * F.binary_cross_entropy_with_logits(found, pixels)
        if self.projection is not None:
            rows = all_rows(F.normalize(self.projection(features).float(), dim=1))
            contrast = supervised_contrastive(rows, all_rows(labels), self.temperature)
            loss = loss + self.discrimination * contrast
        if self.reads_logits:
            loss = loss + self.cross_entropy(logits, labels, features, images)
        return loss


def supervised_contrastive(rows: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of unit rows (N, D), float32 (Khosla et al. 2020, eq. 2).

    Mean over samples i of - mean over the other samples p of its class of log [ exp(z_i z_p / t) / sum over a != i of
    exp(z_i z_a / t) ]. Samples that are alone in their class are left out; 0 where all are.
    """
    with torch.autocast(rows.device.type, enabled=False):
        scores = rows @ rows.T / temperature
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    log_p = scores.masked_fill(itself, torch.finfo(scores.dtype).min).log_softmax(1)
    positive = (labels[:, None] == labels) & ~itself
    partners = positive.sum(1)
    each = -torch.where(positive, log_p, 0.0).sum(1) / partners.clamp_min(1)
    return each.sum() / (partners > 0).sum().clamp_min(1)


def _decoder(site: Site) -> nn.Module:
    """Enlarged features to the logits of the pixels; the sigmoid is part of the loss, where it cannot overflow."""
    return nn.Sequential(
        nn.Conv2d(site.shape[0], 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, site.image_shape[0], 3, padding=1),
    )


def _projection(site: Site) -> nn.Module:
    channels, size = site.shape[0], min(site.shape[1:])
    width, stride = max(64, channels), 2 if size >= 8 else 1
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, PROJECTION),
        nn.ReLU(),
        nn.Linear(PROJECTION, PROJECTION),
    )


def _weight_at(site: Site, option: str, ends: Sequence[float]) -> float:
    """The weight at a stage, on the line from the first stage to the last but one."""
    pair = isinstance(ends, Sequence) and not isinstance(ends, str) and len(ends) == 2
    if not pair or not all(_is_weight(end) for end in ends):
        raise ConfigError(
            f"training.loss_options.{option}={ends!r} must be two numbers of 0 or more: the weight at the first "
            "stage and at the last but one"
        )
    steps = len(site.shapes) - 2
    done = (site.depth - 1) / steps if steps > 0 else 0.0
    return ends[0] * (1 - done) + ends[1] * done


def _is_weight(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
