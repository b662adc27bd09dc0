"""Forward-Forward without negative images: the low anchor of local learning."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lwexplain.errors import ModelError
from lwexplain.models.heads.base import pooled
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting

DEAD = 1e-8
"""Mean square of a sample's features below which they count as silent."""


@LOSSES.register("forward_forward")
class ForwardForward(LocalLoss):
    """Forward-Forward: each class has channels that should be the most active (Papachristodoulou et al. 2024).

    The channels are split into as many contiguous groups as there are classes, as equal as possible. The goodness of
    a class is the mean square of its group's features, over channels and positions; the loss is the cross-entropy of
    the goodness vector, so no negative images are needed (Papachristodoulou et al. 2024, "Convolutional channel-wise
    competitive learning for the forward-forward algorithm", AAAI).

    Each sample is first divided by the root mean square of all its features, so that its scale carries nothing (the
    part that layer normalisation plays in Hinton 2022 and in Sun et al. 2025, "DeeperForward"); the mean is not taken
    off, so that a silent channel has goodness 0. Goodness is then 1 on average over the channels and at most about
    the number of classes: as logits they need no temperature.

    Features (C, H, W), tokens (T, D) or (D,). Raises ModelError where there are fewer channels than classes.
    """

    reads_logits = False

    def __init__(self, setting: LossSetting) -> None:
        super().__init__()
        site = setting.site
        if site.channels < site.num_classes:
            raise ModelError(
                f"training.loss=forward_forward needs a channel for each of the {site.num_classes} classes, found "
                f"{site.channels} channels after stage {site.depth}; raise model.width or use another training.loss"
            )
        self.num_classes = site.num_classes

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        return F.cross_entropy(self.goodness(features), labels)

    def goodness(self, features: Tensor) -> Tensor:
        """Goodness of each class (N, K), float32."""
        energy = pooled(features.float().square())
        energy = energy / energy.mean(1, keepdim=True).clamp_min(DEAD)
        groups = energy.tensor_split(self.num_classes, dim=1)
        return torch.stack([group.mean(1) for group in groups], dim=1)
