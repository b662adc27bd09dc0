"""StagedModel: a network as an ordered row of named stages, with a head at some of its depths."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lwexplain.errors import ModelError
from lwexplain.models.modules import as_parameters, cast_images, in_evaluation
from lwexplain.models.site import Site
from lwexplain.models.token_reading import UNKNOWN, TokenReading, read_by_head
from lwexplain.models.tokens import TokenGrid, watching_tokens
from lwexplain.registry import nearest

State = Tensor | tuple[Tensor, ...]
"""What one stage hands to the next. In a tuple the first tensor is the stage's features; the rest (a residual
branch cut in its middle, say) only passes through."""


class StagedModel(nn.Module):
    """Named stages in order; depth ``d`` means the first ``d`` stages and the head at ``d``.

    ``forward(x)`` returns the logits (N, K) of the full depth, ``forward(x, upto=d)`` those of the network cut
    after stage ``d`` (a depth from 1 or a stage name). Stages hold no head; ``heads`` is filled by ``set_head``.
    Stages frozen by ``freeze`` keep their parameters and their normalisation statistics also after ``train()``.

    Args:
        stages: Modules by name, in order.
        input_shape: (C, H, W) of one image.
        num_classes: Number of classes, K.
        tail: What follows the last stage in a network that has its own output; it becomes the head of the full depth.

    Raises:
        ModelError: There is no stage.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> stages = {"first": nn.Flatten(), "second": nn.Linear(64, 8)}
        >>> model = lw.StagedModel(stages, input_shape=(1, 8, 8), num_classes=3, tail=nn.Linear(8, 3))
        >>> model(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 3])
        >>> model.feature_shapes()
        [(64,), (8,)]
    """

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        input_shape: Sequence[int],
        num_classes: int,
        tail: nn.Module | None = None,
        *,
        in_order: bool = False,
    ) -> None:
        super().__init__()
        if not stages:
            raise ModelError("a staged model needs at least one stage")
        self.names = list(stages)
        self.body = nn.ModuleList(stages.values())
        self.heads = nn.ModuleDict()
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.own_tail = tail is not None
        self.frozen_depth = 0
        self.in_order = in_order  # True once features are known to be (N, C, H, W), (N, T, D) or (N, D)
        self._reading: TokenReading | None = None
        if tail is not None:
            self.set_head(self.depth, tail)

    @property
    def depth(self) -> int:
        """Number of stages."""
        return len(self.body)

    @property
    def stages(self) -> dict[str, nn.Module]:
        """Ordered mapping of stage name to module."""
        return dict(zip(self.names, self.body, strict=True))

    def depth_of(self, stage: int | str) -> int:
        """Depth (from 1) of a stage given by name or depth; raises ModelError where there is none."""
        return depth_among(self.names, stage)

    @property
    def device(self) -> torch.device:
        """Where its parameters lie; the CPU for a model without."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    # ------------------------------------------------------------------ forward

    def forward(self, x: Tensor, upto: int | str | None = None) -> Tensor:
        depth = self.depth if upto is None else self.depth_of(upto)
        return self.classify(self.run_stages(x, 0, depth), depth)

    def run_stages(self, state: State, start: int, end: int) -> State:
        """Run the stages after depth ``start`` up to and with depth ``end`` on the state at ``start``."""
        for stage in self.body[start:end]:
            state = stage(state)
        return state

    def classify(self, state: State, depth: int) -> Tensor:
        """Logits (N, K) of the head at ``depth`` on the state after stage ``depth``."""
        return self.head(depth)(features_of(state))

    # ------------------------------------------------------------------ heads

    def head(self, stage: int | str) -> nn.Module:
        """The head at a stage; raises ModelError where that stage was trained without one."""
        depth = self.depth_of(stage)
        if str(depth) not in self.heads:
            raise ModelError(f"stage {self.names[depth - 1]!r} has no head of its own")
        return self.heads[str(depth)]

    def set_head(self, stage: int | str, head: nn.Module) -> None:
        self.heads[str(self.depth_of(stage))] = head

    @property
    def head_depths(self) -> list[int]:
        """Depths that have a head, ascending."""
        return sorted(int(key) for key in self.heads)

    def classifies(self, depth: int) -> bool:
        """Whether the network cut after a stage has logits of its own."""
        return depth in self.head_depths

    # ------------------------------------------------------------------ freezing

    def freeze(self, depth: int) -> None:
        """Freeze the first ``depth`` stages (and thaw the others): no gradient, evaluation mode for good."""
        self.frozen_depth = depth
        frozen = [*self.body[:depth], *(head for key, head in self.heads.items() if int(key) <= depth)]
        self.requires_grad_(True)
        for part in frozen:  # last, so that a layer which a frozen stage shares with a later one stays as it is
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "StagedModel":
        """Set training mode; frozen stages and their heads stay in evaluation mode."""
        super().train(mode)
        for stage in self.body[: self.frozen_depth]:
            stage.eval()
        for key, head in self.heads.items():
            if int(key) <= self.frozen_depth:
                head.eval()
        return self

    # ------------------------------------------------------------------ shape

    def feature_shapes(self) -> list[tuple[int, ...]]:
        """Shape of each stage's features without the batch dimension, found by one forward of a blank image."""
        return [shape for shape, _ in self._features_of_a_blank_image()]

    def feature_dtypes(self) -> list[torch.dtype]:
        """The dtype of each stage's features, found in the same way."""
        return [dtype for _, dtype in self._features_of_a_blank_image()]

    def _features_of_a_blank_image(self) -> list[tuple[tuple[int, ...], torch.dtype]]:
        parameter = next(self.parameters(), torch.empty(0))
        found = []
        with in_evaluation(self), torch.no_grad():
            state: State = as_parameters(torch.zeros(1, *self.input_shape, device=parameter.device), self)
            for name, stage in zip(self.names, self.body, strict=True):
                try:
                    state = stage(state)
                except (RuntimeError, ValueError) as error:
                    raise ModelError(
                        f"stage {name!r} cannot take images of shape {self.input_shape}: {error}"
                    ) from None
                features = features_of(state)
                found.append((tuple(features.shape[1:]), features.dtype))
        return found

    def sites(self) -> list[Site]:
        """The place after each stage, for heads and losses to be built at."""
        shapes = tuple(self.feature_shapes())
        grids, reading = self._token_grids(shapes), self.token_reading
        return [
            Site(
                self.input_shape, shapes, depth, self.num_classes, grid, None if grid is None else reading.pooling(grid)
            )
            for depth, grid in enumerate(grids, start=1)
        ]

    @property
    def token_reading(self) -> TokenReading:
        """What the network's own head reads of its tokens, found once; unknown where it has no head of its own."""
        if self._reading is None:
            has_tokens = self.own_tail and any(len(shape) == 2 for shape in self.feature_shapes())
            self._reading = read_by_head(self, self.input_shape) if has_tokens else UNKNOWN
        return self._reading

    def read_tokens_as(self, other: "StagedModel") -> None:
        """Let heads read tokens as that of ``other`` does, of whose stages these are a part."""
        self._reading = other.token_reading

    def _token_grids(self, shapes: Sequence[tuple[int, ...]]) -> list[TokenGrid | None]:
        """Where the patches are among the tokens after each stage; None for maps, rows, and where nothing tells it."""
        if len(self.input_shape) != 3 or not any(len(shape) == 2 for shape in shapes):
            return [None] * self.depth
        parameter = next(self.parameters(), torch.empty(0))
        modules = dict(zip(self.names, self.body, strict=True))
        with in_evaluation(self), torch.no_grad():
            state: State = as_parameters(torch.zeros(1, *self.input_shape, device=parameter.device), self)
            with watching_tokens(modules, (self.input_shape[1], self.input_shape[2])) as grids_of:
                self.run_stages(state, 0, self.depth)
        found, calls = grids_of({}), Counter[int]()
        grids = []
        for stage in self.body:
            calls[id(stage)] += 1
            grids.append(found.get((id(stage), calls[id(stage)])))
        return grids

    def prefix(self, stage: int | str) -> nn.Module:
        """Images (N, C, H, W) -> the features after a stage; shares the modules."""
        return FirstStages(list(self.body)[: self.depth_of(stage)])

    def truncated(self, stage: int | str, head: nn.Module | None = None) -> "StagedModel":
        """The network cut after a stage, sharing its modules, with one head: the given one, or the stage's own.

        Raises ModelError where neither is there.
        """
        depth = self.depth_of(stage)
        short = StagedModel(dict(list(self.stages.items())[:depth]), self.input_shape, self.num_classes)
        short.set_head(depth, head if head is not None else self.head(depth))
        short.frozen_depth = min(self.frozen_depth, depth)
        short.read_tokens_as(self)
        short.training = self.training  # its modules are those of this network and keep their modes
        return short


class FirstStages(nn.Module):
    """Images -> the features after the last of some ``stages``, which hand their state on from one to the next."""

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> Tensor:
        state: State = cast_images(images, self)
        for stage in self.stages:
            state = stage(state)
        return features_of(state)


def depth_among(names: Sequence[str], stage: int | str) -> int:
    """Depth (from 1) of a stage, given by name or depth, among the stages of these ``names``; raises ModelError where
    there is none."""
    if isinstance(stage, str) and stage in names:
        return names.index(stage) + 1
    if isinstance(stage, int) and 1 <= stage <= len(names):
        return stage
    raise ModelError(f"no stage {stage!r}; {nearest(str(stage), list(names))} (or a depth from 1 to {len(names)})")


def features_of(state: State) -> Tensor:
    """The features in a stage's output: the tensor itself, or the first of a tuple."""
    return state[0] if isinstance(state, tuple) else state


def as_tuple(state: State) -> tuple[Tensor, ...]:
    """All tensors of a state."""
    return state if isinstance(state, tuple) else (state,)


def detach(state: State) -> State:
    """The same state, cut off from the graph."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
