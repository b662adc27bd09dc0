"""What is asked of the measurements: which depth is good enough, chosen by what, and within which limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lwexplain.arguments import finite, flag, real_number, shown
from lwexplain.costs import COSTS
from lwexplain.errors import AdviceError, LwexplainError

USUAL_TOLERANCE = 0.005
USUAL_OBJECTIVE = "params"


def objectives() -> tuple[str, ...]:
    """What can be made as good as can be: the accuracy expected on val, or one of the costs."""
    return ("accuracy", *COSTS)


@dataclass(frozen=True)
class Question:
    """What a recommendation answers; checked once, here, and passed on whole.

    ``tolerance``: the accuracy one is willing to lose against the best depth, in [0, 1). ``objective``: one of
    ``objectives()``. ``budgets``: the most that a cost may be, by its name, in parameters, FLOPs, seconds and bytes of
    one image. ``retrain``: whether the shorter network is to be trained anew, or the trained one cut as it stands.

    Raises AdviceError for an option that is out of range, ConfigError for a ``retrain`` that is neither True nor False.
    """

    tolerance: float = USUAL_TOLERANCE
    objective: str = USUAL_OBJECTIVE
    budgets: Mapping[str, float] = field(default_factory=dict)
    retrain: bool = True

    def __post_init__(self) -> None:
        checked = {
            "tolerance": _tolerance(self.tolerance),
            "objective": _objective(self.objective),
            "budgets": _budgets(self.budgets),
            "retrain": flag("retrain", self.retrain),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_recommendation(cls, content: Any) -> "Question":
        """The question that a recommendation on file (``analysis/recommendation.json``) answers.

        The file may be a stranger's, so whatever it holds gives a question: tolerance, objective and budgets are each
        taken where they could have been asked, and are the usual ones where they are missing or could not.
        """
        given = content if isinstance(content, Mapping) else {}
        checks: dict[str, Callable[[Any], Any]] = {
            "tolerance": _tolerance,
            "objective": _objective,
            "budgets": _budgets,
        }
        known: dict[str, Any] = {}
        for name, check in checks.items():
            try:
                known[name] = check(given[name])
            except (KeyError, LwexplainError):
                continue
        return cls(**known)


def _tolerance(value: Any) -> float:
    meaning = "a difference of accuracies in [0, 1)"
    tolerance = real_number("tolerance", value, meaning, AdviceError)
    if not 0 <= tolerance < 1:
        raise AdviceError(f"tolerance is {meaning}, found {shown(value)}; 0.005 is half a point")
    return tolerance


def _objective(value: Any) -> str:
    if not isinstance(value, str) or value not in objectives():
        raise AdviceError(f"there is no objective {shown(value)}; choose one of {', '.join(objectives())}")
    return value


def _budgets(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise AdviceError(f"budgets is {shown(value)}; expected a mapping such as {{'params': 1e6, 'latency': 0.002}}")
    budgets = {}
    for name, most in value.items():
        if name not in COSTS:
            raise AdviceError(
                f"there is no budget for {shown(name)} (found {shown(most)}); costs are {', '.join(COSTS)}"
            )
        amount = finite(most)
        if amount is None or amount <= 0:
            raise AdviceError(
                f"the budget of {name} is {shown(most)}; it must be a positive number of {COSTS[name].counts}"
            )
        budgets[name] = amount
    return budgets
