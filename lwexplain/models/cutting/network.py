"""CutNetwork: somebody's network cut after each of its stages."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import nn

from lwexplain.errors import ModelError
from lwexplain.models.cutting.observation import Observation
from lwexplain.models.site import Site
from lwexplain.models.staged import StagedModel, depth_among
from lwexplain.models.token_reading import UNKNOWN, TokenReading, read_by_head


class CutNetwork:
    """A network cut after each of its named stages; it shares its parameters and buffers with the network.

    ``way`` is how it was cut ("own API", "containers", "graph" or "hook"), ``refusals`` says why each earlier way did
    not serve. ``staged`` is the network as a row of stages, for what needs them one by one; None where that cannot be,
    for the reason in ``not_staged``.
    """

    def __init__(
        self,
        seen: Observation,
        way: str,
        refusals: Mapping[str, str],
        prefixes: Sequence[nn.Module],
        whole: nn.Module | None,
        staged: StagedModel | None,
        not_staged: str,
    ) -> None:
        self.model = seen.model
        self.names = list(seen.names)
        self.input_shape = tuple(seen.images.shape[1:])
        self.num_classes = seen.num_classes
        self.way = way
        self.refusals = dict(refusals)
        self.staged = staged
        self.not_staged = not_staged
        self._prefixes = list(prefixes)
        self._whole = whole
        self._no_logits = seen.no_logits
        self._outputs = [output[:1] for output in seen.batches[0].outputs]
        self._grids = list(seen.grids)

    @property
    def depth(self) -> int:
        """Number of stages."""
        return len(self.names)

    @property
    def device(self) -> torch.device:
        """Where the images must lie."""
        return self._outputs[0].device

    @property
    def is_exportable(self) -> bool:
        """False where the network can only be run up to a stage and ended there."""
        return self.way != "hook"

    def depth_of(self, stage: int | str) -> int:
        """Depth (from 1) of a stage given by name or depth; raises ModelError where there is none."""
        return depth_among(self.names, stage)

    # ------------------------------------------------------------------ networks

    def prefix(self, stage: int | str) -> nn.Module:
        """Images (N, C, H, W) -> the output of a stage, as (N, C, H, W), (N, T, D) or (N, D)."""
        return self._prefixes[self.depth_of(stage) - 1]

    @property
    def whole(self) -> nn.Module:
        """Images (N, C, H, W) -> logits (N, K). Raises ModelError where the network gives none."""
        if self._whole is None:
            raise ModelError(self._no_logits)
        return self._whole

    @property
    def head_depths(self) -> list[int]:
        """Depths after which the network's own rest can be had as a module: the last one, or none."""
        return [] if self.staged is None else self.staged.head_depths

    def head(self, stage: int | str) -> nn.Module:
        """The network's own rest after its last stage: output in order -> logits. Raises ModelError where there is
        none."""
        depth = self.depth_of(stage)
        if self.staged is None or depth not in self.head_depths:
            raise ModelError(f"stage {self.names[depth - 1]!r} has no head of its own")
        return self.staged.head(depth)

    def classifies(self, depth: int) -> bool:
        """Whether the network cut after a stage has logits of its own: after the last one it is the whole network."""
        return depth == self.depth and self._whole is not None

    def truncated(self, stage: int | str, head: nn.Module | None = None) -> nn.Module:
        """Images -> logits of the network cut after a stage, with the given head; without one the whole network.

        Raises ModelError where a head is missing.
        """
        depth = self.depth_of(stage)
        if head is not None:
            return nn.Sequential(self.prefix(depth), head).eval()
        if not self.classifies(depth):
            raise ModelError(f"stage {self.names[depth - 1]!r} has no head of its own")
        return self.whole

    # ------------------------------------------------------------------ shape

    def feature_shapes(self) -> list[tuple[int, ...]]:
        """Shape of each stage's features without the batch dimension."""
        return [tuple(output.shape[1:]) for output in self._outputs]

    def feature_dtypes(self) -> list[torch.dtype]:
        """The dtype of each stage's features."""
        return [output.dtype for output in self._outputs]

    def sites(self) -> list[Site]:
        """The place after each stage, for heads to be built at."""
        shapes = tuple(self.feature_shapes())
        pooled = [None if grid is None else self.token_reading.pooling(grid) for grid in self._grids]
        return [
            Site(self.input_shape, shapes, depth, self.num_classes, grid, tokens)
            for depth, (grid, tokens) in enumerate(zip(self._grids, pooled, strict=True), start=1)
        ]

    @cached_property
    def token_reading(self) -> TokenReading:
        """What the network's own head reads of its tokens; unknown where it has none."""
        has_tokens = self._whole is not None and any(output.ndim == 3 for output in self._outputs)
        return read_by_head(self.model, self.input_shape) if has_tokens else UNKNOWN
