"""One small registry: name -> factory, filled by the modules of a package and by entry points.

A factory announces itself with a decorator; the registry imports every module of its package on
first use, so that a new file is all it takes to add an entry::

    @PROBES.register("my_probe")
    class MyProbe: ...
"""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

from lwexplain.errors import UnknownNameError


class Registry:
    """Factories of one kind (``"probe"``, ``"model"``, ...) by name.

    ``package`` is the package whose modules register entries; third-party packages add theirs through
    the entry-point group of the same name as ``group``.
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self._factories: dict[str, Callable[..., Any]] = {}
        self._third_party: list[str] = []
        self._loaded = False

    def register(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorator that files the decorated class or function under ``name``."""

        def add(factory: Callable[..., Any]) -> Callable[..., Any]:
            known = self._factories.get(name)
            if known is not None and known is not factory:
                raise ValueError(f"{self.kind} {name!r} is registered twice: {known!r} and {factory!r}")
            self._factories[name] = factory
            return factory

        return add

    def names(self) -> list[str]:
        """All names in alphabetical order, third-party ones included."""
        self._load()
        return sorted(self._factories)

    def third_party(self) -> list[str]:
        """Names that come from other installed packages, in alphabetical order."""
        self._load()
        return sorted(self._third_party)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._factories

    def get(self, name: str) -> Callable[..., Any]:
        """The factory called ``name``; raises UnknownNameError with the nearest names."""
        self._load()
        if name not in self._factories:
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {nearest(name, self.names())}")
        return self._factories[name]

    def create(self, name: str, /, *args: Any, **options: Any) -> Any:
        """Call the factory with ``args`` and ``options``; an option it does not take is refused by name."""
        factory = self.get(name)
        parameters = inspect.signature(factory).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            positional = list(parameters)[: len(args)]
            allowed = [p for p in parameters if p not in positional]
            for option in options:
                if option not in allowed:
                    raise UnknownNameError(f"{self.kind} {name!r} has no option {option!r}; {nearest(option, allowed)}")
        return factory(*args, **options)

    def summary(self, name: str) -> str:
        """First line of the factory's docstring."""
        doc = inspect.getdoc(self.get(name)) or ""
        return doc.splitlines()[0] if doc else ""

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        if self.group:
            for point in entry_points(group=self.group):
                if point.name in self._factories:
                    continue  # a built-in name cannot be taken over
                try:
                    self._factories[point.name] = point.load()
                except Exception as error:  # a foreign package must not take the tool down
                    self._factories[point.name] = _broken(self.kind, point.name, error)
                self._third_party.append(point.name)


def nearest(name: str, known: list[str]) -> str:
    """``did you mean ...? known: ...`` for an unknown name."""
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def _broken(kind: str, name: str, error: Exception) -> Callable[..., Any]:
    def factory(*_args: Any, **_options: Any) -> Any:
        raise UnknownNameError(f"{kind} {name!r} comes from an installed package that fails to import: {error}")

    factory.__doc__ = f"(fails to import: {error})"
    return factory
