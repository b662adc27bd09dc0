"""What a table's metrics are called, which direction is better, and which figure shows them.

Read from the declarations that the analysis stored; where it stored none, as an earlier version did, from those of
lwexplain's own probes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from lwexplain.costs import is_cost
from lwexplain.errors import ProbeError
from lwexplain.metrics import FAMILIES, LONGEST_TITLE, SIMILARITY, Metric, is_accuracy, stored_metrics
from lwexplain.probes.metrics import attribution, sample_depth
from lwexplain.probes.metrics.find import BUILT_IN, find_metric
from lwexplain.table import TableInfo
from lwexplain.views.theme import label

DIRECTIONS = {"higher": "higher is better ↑", "lower": "lower is better ↓", None: "no better direction"}
"""Which direction of a metric is better, in words and as an arrow."""

UNDECLARED = "no better direction stated"

LAST_FAMILY = "other"


@dataclass(frozen=True)
class Metrics:
    """The metrics of a table by name; every name has an entry, of which ``in`` says whether somebody declared it."""

    declared: Mapping[str, Metric] = field(default_factory=dict)

    @classmethod
    def of(cls, table: pd.DataFrame) -> "Metrics":
        """Those of the long table; an odd one, whose declarations cannot be read, has none."""
        try:
            return cls(stored_metrics(TableInfo.of(table).metrics))
        except (ProbeError, TypeError, KeyError, AttributeError):
            return cls()

    def __contains__(self, name: str) -> bool:
        return find_metric(name, self.declared) is not None

    def __getitem__(self, name: str) -> Metric:
        return find_metric(name, self.declared) or Metric(name)

    def title(self, name: str) -> str:
        """What a person calls the metric, as foreign text for a page or a terminal."""
        return self[name].title

    def label(self, name: str) -> str:
        """The title as it stands in a figure."""
        return label(self[name].title, LONGEST_TITLE)

    def heading(self, name: str) -> str:
        """The title with an arrow in the better direction, if any, as foreign text for the head of a column."""
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[self[name].better]
        return self[name].title + arrow

    def direction(self, name: str) -> str:
        """Which direction is better, in words and as an arrow."""
        return DIRECTIONS[self[name].better] if name in self else UNDECLARED

    def has_own_figure(self, name: str) -> bool:
        """Whether a figure of its own shows the metric, in place of a small chart."""
        own = (is_accuracy, is_cost, self.is_similarity, self.is_sample_depth, self.is_attribution_quality)
        return any(shows(name) for shows in own)

    def is_similarity(self, name: str) -> bool:
        """Whether a metric compares two stages, the other one in the column ``class``."""
        return self[name].family == SIMILARITY

    def is_sample_depth(self, name: str) -> bool:
        """Whether a metric is a share of samples by the depth at which they are right."""
        return self[name].family == sample_depth.FAMILY and sample_depth.source_and_ending(name) is not None

    def is_attribution_quality(self, name: str) -> bool:
        """Whether a metric says how good the heat maps of an attribution method are."""
        return self[name].family == attribution.FAMILY and attribution.metric_of_ending(name) is not None

    def which(self, names: pd.Series, fits: Callable[[str], bool]) -> pd.Series:
        """For each of ``names`` whether it ``fits``, which is asked once for each different one."""
        return names.map({name: fits(str(name)) for name in names.unique()}).astype(bool)

    def in_order(self, names: list[str]) -> list[str]:
        """``names`` in the order in which metrics are shown: as they are declared, then those that nobody declares."""
        places = {name: place for place, name in enumerate(dict.fromkeys([*BUILT_IN, *self.declared]))}
        return sorted(names, key=lambda name: places.get(name, len(places)))

    def by_family(self, names: list[str]) -> dict[str, list[str]]:
        """``names`` by the heading of their family: known families, then those that probes add, then the rest."""
        own = dict.fromkeys(self[name].family for name in names)
        added = [family for family in own if family not in FAMILIES]
        order = [*(family for family in FAMILIES if family != LAST_FAMILY), *added, LAST_FAMILY]
        grouped = {family: [name for name in names if self[name].family == family] for family in order}
        return {FAMILIES.get(family, family): members for family, members in grouped.items() if members}


def title_of(metric: str) -> str:
    """The title of one of lwexplain's own metrics, whatever the table."""
    return Metrics().title(metric)
