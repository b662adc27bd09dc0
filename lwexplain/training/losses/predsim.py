"""PredSim: similarity matching with a little cross-entropy."""

from torch import Tensor

from lwexplain.errors import ConfigError
from lwexplain.training.losses.base import LOSSES, LocalLoss, LossSetting
from lwexplain.training.losses.cross_entropy import CrossEntropy
from lwexplain.training.losses.similarity import Similarity


@LOSSES.register("predsim")
class PredSim(LocalLoss):
    """Similarity matching and a hundredth of cross-entropy (Nøkland and Eidnes 2019).

    The stage learns from (1 - ``beta``) * cross-entropy + ``beta`` * similarity matching, its head from the whole
    cross-entropy: the authors train with Adam, to which the scale of a gradient is nothing, and here the head shall
    learn under SGD too. The value is cross-entropy + ``beta`` * similarity matching.
    """

    compares_samples = True

    def __init__(self, setting: LossSetting, *, beta: float = 0.99) -> None:
        super().__init__()
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta <= 1:
            raise ConfigError(f"training.loss_options.beta={beta!r} must be a number from 0 to 1")
        self.beta = beta
        self.logits_share = 1 - beta
        self.cross_entropy = CrossEntropy(setting)
        self.similarity = Similarity(setting)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        prediction = self.cross_entropy(logits, labels, features, images)
        similarity = self.similarity(logits, labels, features, images)
        return prediction + self.beta * similarity
