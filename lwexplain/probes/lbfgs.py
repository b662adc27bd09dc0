"""Full-batch L-BFGS for smooth convex functions, with a diagonal preconditioner."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

MEMORY = 10
SHRINK = 0.5
SUFFICIENT = 1e-4


@dataclass(frozen=True)
class Minimum:
    """Where the search ended; ``converged`` where the largest gradient entry is at most the tolerance."""

    x: torch.Tensor
    value: float
    gradient_norm: float
    iterations: int
    converged: bool


def minimise(
    function: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    start: torch.Tensor,
    inverse_curvature: torch.Tensor,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 300,
) -> Minimum:
    """Minimise ``function`` (x -> value, gradient) from ``start``, by L-BFGS (Nocedal and Wright, alg. 7.5).

    ``inverse_curvature`` (broadcastable to x) is a rough diagonal of the inverse Hessian. The step is halved
    until it lowers the value enough (Armijo); pairs without positive curvature are not remembered.
    """
    x = start
    value, gradient = function(x)
    pairs: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = deque(maxlen=MEMORY)
    iterations = 0
    while (size := float(gradient.abs().max())) > tolerance and iterations < max_iterations:
        direction = -_two_loops(gradient, pairs, inverse_curvature)
        slope = (gradient * direction).sum()
        step = 1.0
        while True:
            candidate = x + step * direction
            new_value, new_gradient = function(candidate)
            if new_value <= value + SUFFICIENT * step * slope:
                break
            step *= SHRINK
            if step < 1e-10:  # at the limit of the floating-point numbers
                return Minimum(x, float(value), size, iterations, converged=False)
        moved, bent = candidate - x, new_gradient - gradient
        curvature = (moved * bent).sum()
        if curvature > 1e-14 * bent.square().sum():
            pairs.append((moved, bent, curvature))
        x, value, gradient = candidate, new_value, new_gradient
        iterations += 1
    return Minimum(x, float(value), size, iterations, converged=size <= tolerance)


def _two_loops(
    gradient: torch.Tensor,
    pairs: deque[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    inverse_curvature: torch.Tensor,
) -> torch.Tensor:
    q = gradient.clone()
    weights = []
    for moved, bent, curvature in reversed(pairs):
        weight = (moved * q).sum() / curvature
        q -= weight * bent
        weights.append(weight)
    q *= inverse_curvature
    if pairs:
        _, bent, curvature = pairs[-1]
        q *= curvature / (bent.square() * inverse_curvature).sum()
    for (moved, bent, curvature), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - (bent * q).sum() / curvature) * moved
    return q
