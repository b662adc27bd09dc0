"""PredSim: similarity matching with a little cross-entropy."""

from torch import Tensor

from lwexplain.errors import ConfigError
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting
from lwexplain.training.losses.cross_entropy import CrossEntropy
from lwexplain.training.losses.similarity import Similarity


@LOSSES.register("predsim")
class PredSim(LocalLoss):
    """Similarity matching and a hundredth of cross-entropy (Nøkland and Eidnes 2019).

    (1 - ``beta``) * cross-entropy + ``beta`` * similarity matching. The small weight of the cross-entropy is also the
    weight with which the head learns. The authors train with Adam, to which the scale of a gradient is nothing
    (``training.optimizer.name: adamw``); under SGD the head learns a hundred times more slowly.
    """

    def __init__(self, setting: LossSetting, *, beta: float = 0.99) -> None:
        super().__init__()
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta <= 1:
            raise ConfigError(f"training.loss_options.beta={beta!r} must be a number from 0 to 1")
        self.beta = beta
        self.cross_entropy = CrossEntropy(setting)
        self.similarity = Similarity(setting)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        prediction = self.cross_entropy(logits, labels, features, images)
        similarity = self.similarity(logits, labels, features, images)
        return (1 - self.beta) * prediction + self.beta * similarity
