"""Where the simple rules of the literature would stop, beside a recommendation, as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lwexplain.advice.simple_rules import RuleStop
from lwexplain.text_table import TextTable

if TYPE_CHECKING:
    from lwexplain.advice.recommend import Recommendation

OURS = "lwexplain"


def rules_table(advice: "Recommendation | None", stops: Sequence[RuleStop]) -> TextTable:
    """A row for the recommendation (without one, or without a depth, it has no stage), and one for each rule.

    The last column says what a rule does and, where it cannot be applied, what the table lacks.
    """
    stage, depth = (None, None) if advice is None else (advice.stage, advice.depth)
    ours = RuleStop(OURS, "the recommendation", stage, depth, "")
    return TextTable.of(
        [ours, *stops],
        {
            "rule": lambda stop: stop.rule,
            "depth": lambda stop: "-" if stop.depth is None else str(stop.depth),
            "stage": lambda stop: stop.stage or "-",
            "what it does": _in_words,
        },
    )


def _in_words(stop: RuleStop) -> str:
    return f"{stop.does}; cannot be applied, the table lacks {stop.lacks}" if stop.lacks else stop.does
