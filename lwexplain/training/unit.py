"""A span of the network with its heads and losses: everything that one backward pass goes through."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from lwexplain.models.staged import StagedModel, State, features_of
from lwexplain.training.losses.base import LocalLoss
from lwexplain.training.strategies.base import Span


class UnitResult(NamedTuple):
    """``loss`` the weighted sum to go backward from; ``values`` and ``logits`` (N, K) of each head; ``state`` after
    the last stage, still attached."""

    loss: Tensor
    values: list[Tensor]
    logits: list[Tensor]
    state: State


class LocalUnit(nn.Module):
    """The stages of a span with their heads and losses.

    With ``recompute`` the activations inside each stage are made again in the backward pass instead of being kept
    (Chen et al. 2016, "Training deep nets with sublinear memory cost"); the result is the same to the bit.
    """

    def __init__(
        self, model: StagedModel, span: Span, losses: Mapping[int, LocalLoss], *, recompute: bool = False
    ) -> None:
        super().__init__()
        self.span = span
        self.recompute = recompute
        self.stages = nn.ModuleList(model.body[span.start : span.end])
        self.heads = nn.ModuleDict({str(depth): model.head(depth) for depth in span.heads})
        self.losses = nn.ModuleDict({str(depth): losses[depth] for depth in span.heads})

    def forward(self, state: State, labels: Tensor, images: Tensor) -> UnitResult:
        values, logits = [], []
        for depth, stage in enumerate(self.stages, start=self.span.start + 1):
            state = _recomputed(stage, state) if self.recompute else stage(state)
            if depth in self.span.heads:
                name = str(depth)
                value, scores = head_loss(self.heads[name], cast(LocalLoss, self.losses[name]), state, labels, images)
                values.append(value)
                logits.append(scores)
        loss = sum(weight * value for weight, value in zip(self.span.weights, values, strict=True))
        assert isinstance(loss, Tensor)
        return UnitResult(loss, values, logits, state)


def head_loss(head: nn.Module, loss: LocalLoss, state: State, labels: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The local loss (a scalar) of a stage's state, and its head's logits (N, K).

    Where the loss shapes the features alone, the head learns by cross-entropy on detached features, with the recipe's
    label smoothing like any other head.
    """
    features = features_of(state)
    labels, images = labels.to(features.device), images.to(features.device)
    if loss.reads_logits:
        logits = head(_with_gradient_share(features, loss.logits_share))
        return loss(logits, labels, features, images), logits
    logits = head(features.detach())
    taught = F.cross_entropy(logits, labels, label_smoothing=loss.label_smoothing)
    return loss(logits, labels, features, images) + taught, logits


def _with_gradient_share(features: Tensor, share: float) -> Tensor:
    """The same features, through which only a share of the gradient goes on."""
    if share == 1 or not features.requires_grad:
        return features
    return share * features + (1 - share) * features.detach()


def _recomputed(stage: nn.Module, state: State) -> State:
    contexts = partial(_contexts, stage)
    return cast(State, checkpoint(stage, state, use_reentrant=False, context_fn=contexts))


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the forward pass, and around the one that is done again in the backward pass."""
    return nullcontext(), _statistics_left_alone(stage)


@contextmanager
def _statistics_left_alone(stage: nn.Module) -> Iterator[None]:
    """Keep the second forward pass from moving the running statistics a second time."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.training and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
