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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lwexplain.errors import ConfigError, LwexplainError, UnknownNameError


class Registry:
    """Factories of one kind (``"probe"``, ``"model"``, ...) by name.

    ``package`` is the package whose modules register entries; third-party packages add theirs through
    the entry-point group of the same name as ``group``. ``options_key`` is the key of the configuration that holds
    the options of an entry (``"model.options"``), for the messages.
    """

    def __init__(self, kind: str, package: str, group: str | None = None, options_key: str | None = None) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self.options_key = options_key
        self._factories: dict[str, Callable[..., Any]] = {}
        self._third_party: list[str] = []
        self._origins: dict[str, str] = {}
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

    @contextmanager
    def temporary(self) -> Iterator["Registry"]:
        """A ``with`` block whose end gives the registry back as it was, whatever was registered in between.

        Within the block the installed packages are asked anew for what they offer.
        """
        self._load()
        before = self._factories, self._third_party, self._origins
        self._factories, self._third_party, self._origins = dict(before[0]), list(before[1]), dict(before[2])
        self._loaded = False
        try:
            yield self
        finally:
            self._factories, self._third_party, self._origins = before
            self._loaded = True

    def names(self) -> list[str]:
        """All names in alphabetical order, third-party ones included."""
        self._load()
        return sorted(self._factories)

    def third_party(self) -> list[str]:
        """Names that come from other installed packages, in alphabetical order."""
        self._load()
        return sorted(self._third_party)

    def offered(self) -> list[str]:
        """Names that installed packages announce, whether or not they can be imported; imports nothing."""
        return sorted({point.name for point in entry_points(group=self.group)}) if self.group else []

    def origin(self, name: str) -> tuple[str, Callable[..., Any]] | None:
        """Name and version of the installed package that offers ``name``, and its factory; None for a built-in one."""
        self._load()
        return (self._origins[name], self._factories[name]) if name in self._origins else None

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

    def create(self, name: str, /, *args: Any, options: Mapping[str, Any] | None = None, **fixed: Any) -> Any:
        """Call the factory with ``args``, with what the caller itself sets by name (``fixed``) and with ``options``,
        which a person has chosen.

        Raises UnknownNameError for an option that the factory does not take, and ConfigError for one that is missing,
        one that has a key of its own, and whatever the factory raises outside the LwexplainError family.
        """
        factory = self.get(name)
        options = {} if options is None else options
        if not isinstance(options, Mapping):
            raise ConfigError(f"{self._options_of(name)} must be a mapping of names to values, found {options!r}")
        self._check_options(name, factory, args, fixed, options)
        try:
            return factory(*args, **fixed, **options)
        except LwexplainError:
            raise
        except Exception as error:  # a person's option can make a factory fail in any way
            reason = f"{type(error).__name__}: {error}"
            given = f" with {self._options_of(name)}={dict(options)!r}" if options else ""
            raise ConfigError(f"{self.kind} {name!r} cannot be made{given}: {reason}") from error

    def _check_options(
        self,
        name: str,
        factory: Callable[..., Any],
        args: Sequence[Any],
        fixed: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        try:
            parameters = inspect.signature(factory).parameters
        except (TypeError, ValueError):  # a builtin, or a foreign entry that is no factory at all
            return
        filled = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        filled = filled[: len(args)]
        by_name = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        named = [other for other in by_name if other not in filled]
        free = [other for other in named if other not in fixed]
        for option in fixed:
            if option in filled or (option not in named and not open_ended):
                raise UnknownNameError(f"{self.kind} {name!r} has no option {option!r}; {nearest(option, named)}")
        for option in options:
            if option in fixed and self.options_key:
                section = self.options_key.rpartition(".")[0]
                raise ConfigError(
                    f"{self.options_key} of {self.kind} {name!r} cannot hold {option!r}, which has a key of its own; "
                    f"set {section}.{option} instead"
                )
            if option in fixed or option in filled or (option not in free and not open_ended):
                raise UnknownNameError(f"{self.kind} {name!r} has no option {option!r}; {nearest(option, free)}")
        for option in free:
            if parameters[option].default is inspect.Parameter.empty and option not in options:
                where = f"; set {self.options_key}.{option}" if self.options_key else ""
                raise ConfigError(f"{self.kind} {name!r} needs the option {option!r}{where}")

    def _options_of(self, name: str) -> str:
        return self.options_key or f"the options of {self.kind} {name!r}"

    def summary(self, name: str) -> str:
        """First line of the factory's docstring."""
        doc = inspect.getdoc(self.get(name)) or ""
        return doc.splitlines()[0] if doc else ""

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, f"{self.package}."):
            importlib.import_module(module.name)
        if self.group:
            for point in entry_points(group=self.group):
                if point.name in self._factories:
                    continue  # a built-in name cannot be taken over
                try:
                    self._factories[point.name] = point.load()
                except Exception as error:  # a foreign package must not take the tool down
                    self._factories[point.name] = _broken(self.kind, point.name, error)
                self._third_party.append(point.name)
                self._origins[point.name] = _package_of(point)


def _package_of(point: EntryPoint) -> str:
    """The installed package that announces an entry point, with its version."""
    package = getattr(point, "dist", None)
    return f"{package.name} {package.version}" if package is not None else point.value


def nearest(name: str, known: list[str]) -> str:
    """``did you mean ...? known: ...`` for an unknown name; of more than 30 known ones only some near ones."""
    close = difflib.get_close_matches(str(name), known, n=8, cutoff=0.3)
    good = difflib.get_close_matches(str(name), close, n=1)
    hint = f"did you mean {good[0]!r}? " if good else ""
    if len(known) > 30:
        return f"{hint}among the {len(known)} known: {', '.join(close or known[:8])}"
    return f"{hint}known: {', '.join(known) or 'none'}"


def _broken(kind: str, name: str, error: Exception) -> Callable[..., Any]:
    def factory(*_args: Any, **_options: Any) -> Any:
        raise UnknownNameError(f"{kind} {name!r} comes from an installed package that fails to import: {error}")

    factory.__doc__ = f"(fails to import: {error})"
    return factory
