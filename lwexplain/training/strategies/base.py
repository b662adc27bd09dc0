"""What a training strategy is: a plan of phases, each a row of spans through which gradients flow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lwexplain.models.staged import StagedModel
from lwexplain.registry import Registry

STRATEGIES = Registry(
    "strategy", "lwexplain.training.strategies", group="lwexplain.strategies", options_key="training.strategy_options"
)
"""Factories ``(**options) -> Strategy``."""


@dataclass(frozen=True)
class Span:
    """Stages that learn from one backward pass: those after depth ``start`` up to and with depth ``end``.

    ``heads`` are the depths in it whose heads give the losses, ascending, and ``weights`` their weights in the sum.
    Gradients flow inside a span and are cut at its start. ``device`` is where the span lies, None = where the run is.
    """

    start: int
    end: int
    heads: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)
    device: str | None = None


@dataclass(frozen=True)
class Phase:
    """A part of training with its own optimizer and learning-rate schedule.

    ``frozen`` stages from the start stay as they are; those of the ``spans`` learn. Spans follow each other in the
    order of depth; each is run forward and backward before the next one, so that only one of them holds activations.
    """

    name: str
    frozen: int
    spans: tuple[Span, ...]

    @property
    def depth(self) -> int:
        """How many stages are trained once this phase is over."""
        return self.spans[-1].end

    @property
    def heads(self) -> tuple[int, ...]:
        """Depths whose heads learn and are evaluated, ascending."""
        return tuple(depth for span in self.spans for depth in span.heads)


def phases_from(phases: Sequence[Phase], start: int) -> list[Phase]:
    """The phases with the first ``start`` stages frozen throughout: spans begin behind them, and what lay wholly in
    them is left out, heads too."""
    kept = []
    for phase in phases:
        spans = tuple(_span_from(span, start) for span in phase.spans if span.end > start)
        if spans:
            kept.append(replace(phase, frozen=max(phase.frozen, start), spans=spans))
    return kept


def _span_from(span: Span, start: int) -> Span:
    heads = [(depth, weight) for depth, weight in zip(span.heads, span.weights, strict=True) if depth > start]
    depths, weights = zip(*heads, strict=True)
    return replace(span, start=max(span.start, start), heads=depths, weights=weights)


class Strategy(Protocol):
    """How the stages are trained: where gradients flow, and in which order. The loop does everything else."""

    def phases(self, model: StagedModel) -> list[Phase]:
        """The parts of training, in order. Every head they name is made by the trainer."""
        ...
