"""Many convex problems minimised at once end where each would alone, and say so where they do not."""

import pytest
import torch
from scipy.optimize import minimize

from lwexplain.probes.linear.lbfgs import minimise


def quadratics(problems):
    """Half the sum of scale x (x - target)^2 for each (scale, target)."""

    def function(running, points):
        slopes = [problems[at][0] * (x - problems[at][1]) for at, x in zip(running, points, strict=True)]
        parts = zip(running, points, slopes, strict=True)
        values = [0.5 * (slope * (x - problems[at][1])).sum() + 1 for at, x, slope in parts]
        return torch.stack(values), slopes

    return function


def test_quadratics_of_any_size_and_shape_are_solved_together():
    problems = []
    for rows, decades in ((20, 2.0), (3, 0.5), (1, 0.0), (40, 2.5)):
        scale = torch.logspace(-decades / 2, decades / 2, rows * 2, dtype=torch.float64).view(rows, 2)
        problems.append((scale, torch.linspace(-1, 1, rows * 2, dtype=torch.float64).view(rows, 2)))
    starts = [torch.zeros_like(scale) for scale, _ in problems]
    for inverses in ([1 / scale for scale, _ in problems], [torch.ones_like(scale[:, :1]) for scale, _ in problems]):
        options = {"tolerance": 1e-9, "max_iterations": 2000}
        together = minimise(quadratics(problems), starts, inverses, **options)
        for problem, start, inverse, found in zip(problems, starts, inverses, together, strict=True):
            (alone,) = minimise(quadratics([problem]), [start], [inverse], **options)
            assert found.converged
            assert found.gradient_norm <= 1e-9
            torch.testing.assert_close(found.x, problem[1], atol=1e-6, rtol=0)
            torch.testing.assert_close(found.x, alone.x, atol=1e-6, rtol=0)


def test_the_minimum_is_scipys():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 4, generator=generator, dtype=torch.float64)

    def softplus(running, points):
        x = points[0].detach().requires_grad_()
        value = torch.nn.functional.softplus(a @ x).sum() + 0.05 * x.square().sum()
        return value.detach()[None], [torch.autograd.grad(value, x)[0]]

    def flat(x):
        value, slope = softplus([0], [torch.from_numpy(x)[:, None]])
        return float(value), slope[0][:, 0].numpy()

    reference = minimize(flat, torch.zeros(4).double().numpy(), jac=True, tol=1e-12)
    (found,) = minimise(softplus, [torch.zeros(4, 1).double()], [torch.ones(4, 1).double()], tolerance=1e-8)
    assert found.value == pytest.approx(reference.fun, rel=1e-12)
    assert found.x[:, 0].numpy() == pytest.approx(reference.x, abs=1e-6)


def test_a_problem_that_has_ended_is_evaluated_no_more():
    easy, hard = (torch.ones(2, 1).double(), torch.ones(2, 1).double()), (torch.logspace(-1, 1, 40).double()[:, None],)
    problems = [(*hard, torch.ones(40, 1).double()), easy]
    seen = []

    def watched(running, points):
        seen.append(list(running))
        return quadratics(problems)(running, points)

    found = minimise(watched, [torch.zeros_like(target) for _, target in problems], [torch.ones(1, 1).double()] * 2)
    assert found[1].iterations < found[0].iterations
    assert seen[0] == [0, 1]
    assert seen[-1] == [0]


def test_a_step_too_long_is_halved_even_where_the_value_is_not_a_number():
    def barrier(running, points):
        x = torch.stack(points)
        return (x - x.log()).sum((1, 2)), [1 - 1 / point for point in points]

    starts = [torch.full((1, 1), value, dtype=torch.float64) for value in (0.01, 3.0)]
    for minimum in minimise(barrier, starts, [torch.full((1, 1), 10.0).double()] * 2, tolerance=1e-8):
        assert minimum.converged
        assert float(minimum.x) == pytest.approx(1.0, abs=1e-7)


def test_no_convergence_is_said():
    problem = (torch.logspace(-2, 2, 40).double()[:, None], torch.ones(40, 1).double())
    start, inverse = torch.zeros(40, 1).double(), torch.ones(40, 1).double()
    (cut,) = minimise(quadratics([problem]), [start], [inverse], max_iterations=3)
    assert (cut.converged, cut.iterations) == (False, 3)

    def nowhere(running, points):
        values, slopes = quadratics([problem])(running, points)
        return torch.where(points[0].any(), float("nan"), values), slopes

    (stuck,) = minimise(nowhere, [start], [inverse])
    assert not stuck.converged
    assert stuck.iterations < 50
    assert torch.equal(stuck.x, start)
