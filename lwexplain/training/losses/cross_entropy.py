"""Cross-entropy: the loss of back-propagation, and the plainest local one."""

from torch import Tensor
from torch.nn import functional as F

from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting


@LOSSES.register("cross_entropy")
class CrossEntropy(LocalLoss):
    """Cross-entropy of the head's logits, with label smoothing."""

    def __init__(self, setting: LossSetting) -> None:
        super().__init__()
        self.label_smoothing = setting.label_smoothing

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
