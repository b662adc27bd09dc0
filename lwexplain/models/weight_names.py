"""Which tensors of a file are those of a network, whatever levels and prefixes their names stand behind."""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from torch import Tensor

LEVELS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
"""Under which names training scripts file the weights beside epoch and optimizer, the most usual first."""

AVERAGED = "ema"
"""What names of averaged weights have in them; they are taken where there are no others."""

DEEPEST = 3


@dataclass(frozen=True)
class Match:
    """Tensors of a file by the names of the network: those whose names it has, and those it has not.

    ``level`` is where they stand in the file, ``prefix`` what was taken off their names there, ``added`` what was put
    before them; ``aside`` are the names in the file that do not stand behind the prefix.
    """

    level: tuple[str, ...]
    prefix: str
    added: str
    tensors: Mapping[str, Tensor]
    aside: tuple[str, ...]
    fitting: int

    @property
    def averaged(self) -> bool:
        return any(AVERAGED in part.lower().split("_") for part in (*self.level, *self.prefix.split(".")))


def best_matches(content: Any, names: Set[str]) -> list[Match]:
    """The matches with the most names of the network, of equal ones the shallowest with the shortest prefix first.

    More than one comes back only where several parts of one level fit equally well, so that none of them can be told
    to be meant. Empty where no name fits.
    """
    found = [match for level, tensors in _levels(content) for match in _matches(level, tensors, names)]
    most = max((match.fitting for match in found), default=0)
    if not most:
        return []
    found = [match for match in found if match.fitting == most]
    found = [match for match in found if not match.averaged] or found
    found.sort(key=_usualness)
    first = found[0]
    rivals = [match for match in found if match.level == first.level and match.prefix and match is not first]
    return [first, *rivals] if first.prefix and not first.added else [first]


def _usualness(match: Match) -> tuple[int, int, int]:
    known = [LEVELS.index(part) if part in LEVELS else len(LEVELS) for part in match.level]
    return len(match.level), sum(known), len(match.prefix) + len(match.added)


def names_in(content: Any) -> list[str]:
    """The names of tensors in the first mapping of a file that has some."""
    return next((list(tensors) for _, tensors in _levels(content)), [])


def _levels(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping of names to tensors in what a file holds, each once, with the names of the levels above it."""
    left: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen: set[int] = set()
    while left:
        above, held = left.pop(0)
        if not isinstance(held, Mapping) or id(held) in seen:
            continue
        seen.add(id(held))
        named = {name: value for name, value in held.items() if isinstance(name, str)}
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        if tensors:
            yield above, tensors
        if len(above) < DEEPEST:
            left += [((*above, name), value) for name, value in named.items() if isinstance(value, Mapping)]


def _matches(level: tuple[str, ...], tensors: dict[str, Tensor], names: Set[str]) -> Iterator[Match]:
    """The tensors of one level behind each prefix that some of their names have."""
    plain = {without_compiled(name): tensor for name, tensor in tensors.items()}
    for added in ("", *_common_prefixes(names)):
        for prefix in _prefixes(plain) if not added else [""]:
            inside = {added + name[len(prefix) :]: tensor for name, tensor in plain.items() if name.startswith(prefix)}
            aside = tuple(name for name in plain if not name.startswith(prefix))
            yield Match(level, prefix, added, inside, aside, len(names & inside.keys()))


def without_compiled(name: str) -> str:
    """A name without the level that torch.compile puts around a module."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _prefixes(names: Mapping[str, Tensor]) -> list[str]:
    """All beginnings of names up to a dot, at most DEEPEST levels; first none."""
    found = {"": None}
    for name in names:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[:depth]) + ".": None for depth in range(1, min(len(parts), DEEPEST) + 1)}
    return list(found)


def _common_prefixes(names: Set[str]) -> list[str]:
    """The beginnings up to a dot that all names have."""
    first = next(iter(names), "").split(".")[:-1]
    beginnings = [".".join(first[:depth]) + "." for depth in range(1, min(len(first), DEEPEST) + 1)]
    return [beginning for beginning in beginnings if all(name.startswith(beginning) for name in names)]
