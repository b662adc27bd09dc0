"""What a local loss is: the module through which a stage (or the whole network) learns."""

from dataclasses import dataclass

from torch import Tensor, nn

from lwexplain.models.site import Site
from lwexplain.registry import Registry

LOSSES = Registry("loss", "lwexplain.training.losses", group="lwexplain.losses", options_key="training.loss_options")
"""Factories ``(setting, **options) -> LocalLoss``."""


@dataclass(frozen=True)
class LossSetting:
    """What a loss is built from: its ``site``, the recipe's ``label_smoothing`` and how images are normalised
    (``mean`` and ``std`` of each channel, pixels in [0, 1])."""

    site: Site
    label_smoothing: float = 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class LocalLoss(nn.Module):
    """``(logits (N, K), labels (N,), features of the stage, images (N, C, H, W)) -> scalar``.

    A loss may have parameters of its own (a decoder, a projection); they learn with the stage, are kept in the
    checkpoints and are no part of the network. A loss that compares samples with each other passes what it compares
    through ``lwexplain.training.distributed.all_rows``, so that several processes see one batch.
    """

    reads_logits: bool = True
    """False where the loss shapes the features alone: the trainer then teaches the head by cross-entropy on detached
    features, so that it reads the stage without changing it."""

    logits_share: float = 1.0
    """The part of the logits' gradient that goes on from the head into the stage. A small weight of the logits in the
    loss is given here and not as a factor, so that the head itself learns at the full rate under any optimizer."""

    label_smoothing: float = 0.0
    """The recipe's smoothing, set once the loss is built: of the cross-entropy by which the trainer teaches the head
    where ``reads_logits`` is False."""

    compares_samples: bool = False
    """Whether samples are compared with each other. With ``training.accumulate`` only those of one part are."""

    uses_images: bool = False
    """Whether the images are looked at."""

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor, images: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} is a loss without a forward")
