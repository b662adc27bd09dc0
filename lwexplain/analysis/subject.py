"""What an analysis is made of, whoever trained the network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lwexplain.analysis.parts import Part
from lwexplain.probes.base import StageData
from lwexplain.results import Analysis
from lwexplain.table import TableInfo


@dataclass
class Subject:
    """The captured ``stages``; the probes that are ``always`` measured; what is known of the table as a whole besides
    its rows (``info``); what gives the results their pictures (``add_pictures``); and the number of ``samples`` of each
    split. ``parts`` were measured before and hold for any samples; ``without`` names probes that cannot be measured."""

    stages: list[StageData]
    always: list[Any]
    info: TableInfo
    device: str
    samples: dict[str, int]
    add_pictures: Callable[[Analysis], None]
    parts: list[Part] = field(default_factory=list)
    without: frozenset[str] = field(default_factory=frozenset)
