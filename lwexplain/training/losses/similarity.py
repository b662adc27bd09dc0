"""Similarity matching: samples of one class should look alike, samples of two classes unlike."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwexplain.models.heads.base import pooled
from lwexplain.training.distributed import all_rows
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting

ROUNDING = 1e-6
"""Share of a row's length below which its spread is rounding of float32."""


@LOSSES.register("similarity")
class Similarity(LocalLoss):
    """Similarity matching: alike within a class, unlike between classes (Nøkland and Eidnes 2019).

    Mean squared difference of two matrices (N, N) of the batch: the adjusted cosine similarity of the samples, and
    that of their one-hot labels, which is 1 within a class and -1 / (K - 1) between two (their "sim" loss).
    Samples are compared through a learned map that is no part of the network:

    - features (C, H, W): 3x3 convolution C -> C, then the standard deviation of each channel over positions. Where
      that says nothing (one position only) or too little (C <= 3), the values themselves, as in the authors' code;
    - tokens (T, D): those that the network's own head reads, linear map D -> D;
    - features (D,): linear map D -> D.
    """

    reads_logits = False
    compares_samples = True

    def __init__(self, setting: LossSetting) -> None:
        super().__init__()
        channels = setting.site.channels
        self.num_classes, self.tokens = setting.site.num_classes, setting.site.tokens
        self.map: nn.Module
        if len(setting.site.shape) == 3:
            self.map = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        else:
            self.map = nn.Linear(channels, channels, bias=False)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        rows = all_rows(self.describe(features))
        target = F.one_hot(all_rows(labels), self.num_classes).float()
        return F.mse_loss(cosine_similarities(rows), cosine_similarities(target))

    def describe(self, features: Tensor) -> Tensor:
        """What stands for each sample: (N, D) float32."""
        if features.ndim != 4:
            return self.map(pooled(features, self.tokens)).float()
        maps = self.map(features).float().flatten(2)
        return maps.std(2) if maps.shape[1] > 3 and maps.shape[2] > 1 else maps.flatten(1)


def cosine_similarities(rows: Tensor) -> Tensor:
    """Cosine similarity (N, N) of the rows (N, D), each less its own mean, in [-1, 1].

    A row whose values are all equal has no direction: its similarity to every row is 0, without a gradient.
    """
    centred = rows - rows.mean(1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    flat = length <= ROUNDING * rows.norm(dim=1, keepdim=True)
    unit = torch.where(flat, 0.0, centred / torch.where(flat, 1.0, length))
    with torch.autocast(rows.device.type, enabled=False):
        return unit @ unit.T
