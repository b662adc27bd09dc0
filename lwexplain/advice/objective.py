"""Which depth to take when costs count: the cheapest that is enough, or the best within budgets."""

import math
from collections.abc import Mapping, Sequence

from lwexplain.advice.prospects import Prospect
from lwexplain.advice.question import Question
from lwexplain.costs import COSTS
from lwexplain.errors import AdviceError


def measured(prospects: Sequence[Prospect], cost: str) -> bool:
    """True where every depth has a number for this cost."""
    values = [prospect.cost(cost) for prospect in prospects]
    return all(value is not None and math.isfinite(value) for value in values)


def choose(prospects: Sequence[Prospect], question: Question) -> int:
    """Position of the depth to take: of those within all budgets the best by the objective of the question.

    A cost as objective: the cheapest that is sufficient (costs within ``CostKind.alike`` of the least are the same), of
    equally cheap ones the one with the fewest stages. The objective ``accuracy``, and any objective where none within
    the budgets is sufficient: the highest accuracy expected on val, of equally accurate ones the one with the fewest
    parameters. What is expected on test takes no part. The number of stages stands in for parameters that were not
    measured, but not in a budget.

    Raises AdviceError where there is no depth, nothing fits the budgets, or a cost that is asked for was not measured.
    """
    objective, allowed = question.objective, _within(prospects, question.budgets)
    enough = [position for position in allowed if prospects[position].sufficient]
    if objective == "accuracy" or not enough:
        sizes = costs_of(prospects, "params")
        return min(allowed, key=lambda at: (-prospects[at].rank_accuracy, sizes[at], prospects[at].depth))
    costs = costs_of(prospects, objective)
    least = min(costs[position] for position in enough)
    limit = least * (1 + COSTS[objective].alike)
    return min((position for position in enough if costs[position] <= limit), key=lambda at: prospects[at].depth)


def pareto_front(prospects: Sequence[Prospect], objective: str) -> list[bool]:
    """Which depths no other depth beats: none is at least as accurate and as cheap, and better in one of the two.

    ``objective`` is a cost; costs and the accuracies expected on val are taken as they are, without any margin.
    """
    costs = costs_of(prospects, objective)
    points = [(cost, prospect.rank_accuracy) for cost, prospect in zip(costs, prospects, strict=True)]

    def beaten(cost: float, accuracy: float) -> bool:
        return any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)

    return [not beaten(*point) for point in points]


def costs_of(prospects: Sequence[Prospect], objective: str) -> list[float]:
    """What each depth costs; stages in the place of parameters that were not measured.

    Raises AdviceError for any other cost that was not measured, and where ``objective`` is no cost.
    """
    if objective not in COSTS:
        raise AdviceError(f"{objective!r} is no cost; costs are {', '.join(COSTS)}")
    if objective == "params" and not measured(prospects, objective):
        return [float(prospect.depth) for prospect in prospects]
    _require(prospects, objective)
    return [float(prospect.cost(objective) or 0.0) for prospect in prospects]


def budgets_in_words(budgets: Mapping[str, float]) -> str:
    """``12,345 parameters and 1.24 ms``; "" for none."""
    return " and ".join(COSTS[name].amount(most) for name, most in budgets.items())


def _within(prospects: Sequence[Prospect], budgets: Mapping[str, float]) -> list[int]:
    """Positions of the depths that keep all budgets, at least one."""
    if not prospects:
        raise AdviceError("there is no depth to choose from: the measurements show no signal")
    allowed, kept = list(range(len(prospects))), ""
    for name, most in budgets.items():
        _require(prospects, name)
        costs = costs_of(prospects, name)
        fitting = [position for position in allowed if costs[position] <= most]
        if not fitting:
            least = min(allowed, key=lambda position: costs[position])
            raise AdviceError(
                f"no depth{kept and f' within {kept}'} keeps {name} within {COSTS[name].amount(most)}: the least is "
                f"{COSTS[name].amount(costs[least])}, at {prospects[least].stage} (depth {prospects[least].depth}); "
                f"raise this budget or train a smaller network"
            )
        allowed, kept = fitting, f"{kept}{kept and ' and '}{COSTS[name].amount(most)}"
    return allowed


def _require(prospects: Sequence[Prospect], cost: str) -> None:
    if not measured(prospects, cost):
        kind = COSTS[cost]
        raise AdviceError(
            f"the cost {cost!r} (metric {kind.metric}) was not measured at every depth; run lwexplain analyze again "
            f"(its probe {kind.probe!r} measures it, or says why it cannot), or leave this objective or budget out"
        )
