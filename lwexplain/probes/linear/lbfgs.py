"""L-BFGS for many smooth convex problems at once, each with its own step and its own end."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 15
SHRINK = 0.5
SUFFICIENT = 1e-4

ROUNDING = 1e-6
"""Share of a value below which two are told apart by their slopes."""

SMALLEST_STEP = 1e-10

Function = Callable[[list[int], list[Tensor]], tuple[Tensor, list[Tensor]]]


@dataclass(frozen=True)
class Minimum:
    """Where the search for one problem ended, at ``x`` (rows, K)."""

    x: Tensor
    value: float
    gradient_norm: float  # the largest absolute entry of the gradient
    iterations: int
    converged: bool


def minimise(
    function: Function,
    starts: Sequence[Tensor],
    inverse_curvatures: Sequence[Tensor],
    *,
    tolerance: float = 1e-5,
    remaining: float = 2e-7,
    history: int = HISTORY,
    max_iterations: int = 500,
) -> list[Minimum]:
    """Minimise P convex functions from ``starts``, tensors (rows, K) of one K in float64; minima in the same order.

    ``function(problems, points)`` returns the values (P',) and the gradients of those of the P problems that still
    run, which ``problems`` names in ascending order. ``inverse_curvatures``, one per problem and broadcastable to its
    start, are rough diagonals of the inverse Hessians.

    The direction is that of the two-loop recursion over ``history`` pairs (Nocedal and Wright, alg. 7.4). A step is
    halved until the value falls enough (Armijo) or, where the change is within rounding, until the slope along the
    direction shows a fall (Hager and Zhang 2005, approximate Wolfe condition). A problem has converged when no entry
    of its gradient g is above ``tolerance`` and g^T H g / 2, with H the recursion's inverse Hessian the distance to
    the minimum of a quadratic, is at most ``remaining`` of the value.
    """
    running = _Running(function, starts, inverse_curvatures, history)
    found: dict[int, Minimum] = {}
    for iteration in range(max_iterations + 1):
        direction = running.direction()
        slopes = running.dots(running.gradient, direction)
        sizes = running.largest(running.gradient)
        converged = (sizes <= tolerance) & (-0.5 * slopes <= remaining * running.values.abs())
        ended = converged | (running.steps < SMALLEST_STEP) | (iteration == max_iterations)
        if bool(ended.any()):
            for place, x in enumerate(running.x.split(running.rows)):
                if ended[place]:
                    value, size, good = float(running.values[place]), float(sizes[place]), bool(converged[place])
                    found[running.problems[place]] = Minimum(x.clone(), value, size, iteration, good)
            if bool(ended.all()):
                break
            direction, slopes = direction[running.spread(~ended)[:, 0]], slopes[~ended]
            running.keep(~ended)
        running.advance(direction, slopes)
    return [found[problem] for problem in range(len(starts))]


def state_bytes(rows: int, classes: int, history: int) -> int:
    """Bytes that ``minimise`` and its function hold for one problem: the pairs and about fourteen more vectors."""
    return 8 * rows * classes * (2 * history + 14)


class _Running:
    """The P' problems that still run: their rows one below the other, (R, K), and their numbers, (P',)."""

    def __init__(
        self, function: Function, starts: Sequence[Tensor], inverse_curvatures: Sequence[Tensor], history: int
    ) -> None:
        self.function = function
        self.problems = list(range(len(starts)))
        self.x = torch.cat(list(starts))
        self.inverse_curvature = torch.cat(
            [part.expand(len(start), -1) for part, start in zip(inverse_curvatures, starts, strict=True)]
        )
        self.pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=history)
        self._lay_out([len(start) for start in starts])
        self.values, self.gradient = self._evaluate(self.x)
        self.steps, self.scale = torch.ones_like(self.values), torch.ones_like(self.values)

    def _lay_out(self, rows: list[int]) -> None:
        self.rows = rows
        self.lengths = torch.tensor(rows, device=self.x.device)
        self.owner = torch.repeat_interleave(torch.arange(len(rows), device=self.x.device), self.lengths)

    def _evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = self.function(self.problems, list(x.split(self.rows)))
        return values, torch.cat(gradients)

    def dots(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products (P',) of a and b (R, K)."""
        return torch.segment_reduce((a * b).sum(1), "sum", lengths=self.lengths)

    def largest(self, a: Tensor) -> Tensor:
        """Largest absolute entries (P',)."""
        return torch.segment_reduce(a.abs().amax(1), "max", lengths=self.lengths)

    def spread(self, numbers: Tensor) -> Tensor:
        """Numbers (P',) at the rows of their problems (R, 1)."""
        return numbers[self.owner][:, None]

    def direction(self) -> Tensor:
        """Minus the gradient times the inverse Hessian that the pairs describe, (R, K)."""
        q = self.gradient.clone()
        weights = []
        for moved, bent, inverse in reversed(self.pairs):
            weight = inverse * self.dots(moved, q)
            q.addcmul_(self.spread(weight), bent, value=-1)
            weights.append(weight)
        q *= self.inverse_curvature
        q *= self.spread(self.scale)
        for (moved, bent, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            q.addcmul_(self.spread(weight - inverse * self.dots(bent, q)), moved)
        return q.neg_()

    def advance(self, direction: Tensor, slopes: Tensor) -> None:
        """Take the step of each problem where it leads down, halve it where it does not."""
        candidate = torch.addcmul(self.x, self.spread(self.steps), direction)
        values, gradient = self._evaluate(candidate)
        falls = values <= self.values + SUFFICIENT * self.steps * slopes
        level = values <= self.values + ROUNDING * self.values.abs()
        flatter = self.dots(gradient, direction) <= (2 * SUFFICIENT - 1) * slopes
        taken = falls | (level & flatter)

        moved, bent = candidate - self.x, gradient - self.gradient
        curvature, scaled = self.dots(moved, bent), self.dots(bent * self.inverse_curvature, bent)
        useful = taken & (curvature > 1e-14 * scaled)
        if bool(useful.any()):
            if not bool(useful.all()):  # nothing to remember of the others, not even a NaN
                moved, bent = (torch.where(self.spread(useful), part, 0.0) for part in (moved, bent))
            self.pairs.append((moved, bent, torch.where(useful, 1 / curvature, 0.0)))
            self.scale = torch.where(useful, curvature / scaled, self.scale)

        at = self.spread(taken)
        self.x = torch.where(at, candidate, self.x)
        self.gradient = torch.where(at, gradient, self.gradient)
        self.values = torch.where(taken, values, self.values)
        self.steps = torch.where(taken, 1.0, SHRINK * self.steps)

    def keep(self, kept: Tensor) -> None:
        """Go on with the problems ``kept`` (P',) only."""
        rows = self.spread(kept)[:, 0]
        self.x, self.gradient, self.inverse_curvature = self.x[rows], self.gradient[rows], self.inverse_curvature[rows]
        self.values, self.steps, self.scale = self.values[kept], self.steps[kept], self.scale[kept]
        for at, (moved, bent, inverse) in enumerate(self.pairs):
            self.pairs[at] = moved[rows], bent[rows], inverse[kept]
        places = kept.nonzero()[:, 0].tolist()
        self.problems = [self.problems[place] for place in places]
        self._lay_out([self.rows[place] for place in places])
