"""Any object as a probe: what it does not declare or define is as in ``ProbeDefaults``.

The one place that asks a foreign object what it has. What its code raises meanwhile is passed on with a sentence that
says where.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lwexplain.arguments import shown, user_code, whole_number
from lwexplain.errors import ProbeError
from lwexplain.metrics import Metric
from lwexplain.probes.base import ProbeDefaults, StageData

DEFAULTS = ProbeDefaults()


@dataclass(frozen=True)
class ProbeHooks:
    """A probe with everything that ``ProbeDefaults`` describes. Raises UserCodeError for what the probe raises."""

    probe: Any

    @property
    def name(self) -> str:
        """Raises ProbeError where the probe has none."""
        name = self._attribute("name", None)
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ProbeError(
                f"{shown(self.probe)} is no probe: it has no name (a non-empty string of printable characters)"
            )
        return str(name)

    @property
    def measures_one(self) -> bool:
        """Whether it has a method ``measure(stage)``."""
        return callable(self._attribute("measure", None))

    @property
    def measures_all(self) -> bool:
        """Whether it takes all stages together, which goes before ``measure``."""
        return callable(self._attribute("measure_all", None))

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics it declares, by name; raises ProbeError where it declares anything else."""
        declared = self._declared("metrics")
        if not isinstance(declared, Sequence) or not all(isinstance(item, Metric) for item in declared):
            raise ProbeError(
                f"probe {shown(self.name)}: its metrics are {shown(declared)}; expected a list of Metric, for example "
                'metrics = [lw.Metric("my_metric", "title", better="higher")]'
            )
        return {item.name: item for item in declared}

    @property
    def order(self) -> int:
        """Raises ProbeError where it is no whole number of at least 0."""
        what = f"order of the probe {shown(self.name)}"
        return whole_number(what, self._declared("order"), least=0, family=ProbeError)

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """What it says itself of what decides its results; None where it says nothing."""
        settings = self._declared("settings")
        return settings if isinstance(settings, Mapping) else None

    @property
    def needs_quiet(self) -> bool:
        return self._is_set("needs_quiet")

    @property
    def collective(self) -> bool:
        return self.measures_all and self._is_set("collective")

    def prepare(self) -> None:
        self._call("prepare")

    def begin(self, stages: Sequence[StageData]) -> None:
        self._call("begin", stages)

    def is_busy(self) -> bool:
        return bool(self._call("is_busy"))

    def _is_set(self, name: str) -> bool:
        with user_code(f"asking a probe ({shown(self.probe)}) for its {name}"):
            return bool(self._declared(name))

    def _declared(self, name: str) -> Any:
        return self._attribute(name, getattr(DEFAULTS, name))

    def _call(self, name: str, *arguments: Any) -> Any:
        own = self._declared(name)
        method: Callable[..., Any] = own if callable(own) else getattr(DEFAULTS, name)
        with user_code(f"{name} of the probe {shown(self.probe)}"):
            return method(*arguments)

    def _attribute(self, name: str, default: Any) -> Any:
        with user_code(f"asking a probe ({shown(self.probe)}) for its {name}"):
            return getattr(self.probe, name, default)


def name_of(probe: Any) -> str:
    """The name of a probe object; raises ProbeError where it is none, or declares what cannot be."""
    if isinstance(probe, type):
        raise ProbeError(f"the probe {probe.__name__} is a class; pass an instance: {probe.__name__}()")
    hooks = ProbeHooks(probe)
    name = hooks.name
    if not (hooks.measures_one or hooks.measures_all):
        raise ProbeError(f"probe {shown(name)} has neither a method measure(stage) nor measure_all(stages)")
    _ = hooks.metrics, hooks.order
    return name


def name_as_asked(probe: Any) -> str:
    """The name of a probe that is asked for by its name or as an object; raises as ``name_of`` does."""
    return probe if isinstance(probe, str) else name_of(probe)
