"""Checks of what is passed to the public functions: one place for each kind of argument; loads no torch.

Every check returns the argument as the package uses it, or raises an error that names the argument, the value found
(shortly: never the numbers of an array), what was expected and the next step.
"""

import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwexplain.errors import CaptureError, ConfigError, LwexplainError, ProbeError, RunError, UserCodeError
from lwexplain.memory import parse_size
from lwexplain.registry import nearest

if TYPE_CHECKING:
    pass

LONGEST_NAME = 255
LONGEST_PATH = 4095
"""Most bytes that one part of a path, and a path, may have."""
POOLINGS = ("auto", "mean", "max", "cls", "cls+mean", "flatten", "pyramid")
"""How the features of a stage become one vector a sample; ``auto``: the mean of maps, and of tokens what the network's
own head reads."""

PRECISIONS = ("auto", "float32", "bfloat16")
"""Of the forward pass that captures features."""

SIMPLE = (str, bytes, int, float, complex, type(None))

# ---------------------------------------------------------------------- words for values


def shown(value: Any, longest: int = 60) -> str:
    """A value in a few words, on one line: small plain ones as Python writes them, others by their kind and size."""
    try:
        return _shown(value, longest)
    except Exception:  # an object may fail at anything that is asked of it
        return with_article(type(value).__name__)


def _shown(value: Any, longest: int) -> str:
    if isinstance(value, SIMPLE):
        return shortened(reprlib.repr(value) if isinstance(value, int) else repr(value), longest)
    if isinstance(value, os.PathLike):
        return shortened(repr(os.fspath(value)), longest)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape, kind = getattr(value, "shape", None), type(value).__name__
    if isinstance(shape, tuple):
        dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
        return (
            repr(value)
            if shape == () and len(repr(value)) <= longest
            else f"{with_article(kind)} {dtype} {tuple(shape)}"
        )
    if isinstance(value, Mapping):
        keys = [key if isinstance(key, str) and key.isidentifier() else shown(key, 20) for key in list(value)[:20]]
        names = shortened(", ".join(keys), longest)
        return f"{with_article(kind)} with the keys {names}" if value else f"an empty {kind}"
    if isinstance(value, (list, tuple, set, frozenset)):
        if all(isinstance(item, SIMPLE) for item in value) and len(value) <= 100 and len(repr(value)) <= longest:
            return repr(value)
        first = type(next(iter(value))).__name__
        return f"{with_article(kind)} of {len(value)} ({first}{', ...' if len(value) > 1 else ''})"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return with_article(kind)


def shortened(text: str, longest: int = 60) -> str:
    """The text on one line, cut at ``longest`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


@contextmanager
def user_code(where: str) -> Iterator[None]:
    """Pass on what the user's own code raises inside, chained, with one sentence that says where."""
    try:
        yield
    except LwexplainError:
        raise
    except Exception as error:
        try:
            text = shortened(str(error), 160)
        except Exception:
            text = ""
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise UserCodeError(f"{where} raised {reason}") from error


def each_of(batches: Iterable[Any], where: str) -> Iterator[Any]:
    """What ``batches`` give, one after another; ``where`` is said of what they raise."""
    with user_code(where):
        source = iter(batches)
    while True:
        with user_code(where):
            try:
                item = next(source)
            except StopIteration:
                return
        yield item


# ---------------------------------------------------------------------- plain values


def whole_number(
    what: str,
    value: Any,
    *,
    least: int,
    most: int | None = None,
    none: str | None = None,
    family: type[LwexplainError] = ConfigError,
) -> int:
    """A whole number from ``least`` to ``most``; ``none`` says what None would mean where a caller allows it."""
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < least or (most is not None and number > most):
        wanted = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise family(f"{what} is {shown(value)}; it must be a whole number {wanted}{f', or None {none}' * bool(none)}")
    return number


def finite(value: Any) -> float | None:
    """The value as a number of Python; None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond the largest float
        return None
    return number if isfinite(number) else None


def real_number(what: str, value: Any, meaning: str, family: type[LwexplainError] = ConfigError) -> float:
    """A finite number; ``meaning`` says what is expected of it."""
    number = finite(value)
    if number is None:
        raise family(f"{what} is {meaning}, found {shown(value)}")
    return number


def choice(what: str, value: Any, known: Collection[str], family: type[LwexplainError] = ConfigError) -> str:
    """One of the ``known`` names."""
    if not isinstance(value, str) or value not in known:
        raise family(f"{what} is {shown(value)}; choose one of {', '.join(known)}")
    return value


def flag(what: str, value: Any, *, none: str | None = None) -> Any:
    """True or False; ``none`` says what None means where it is allowed."""
    if isinstance(value, bool) or (value is None and none):
        return value
    raise ConfigError(f"{what} is {shown(value)}; it must be True or False{f', or None: {none}' * bool(none)}")


def quiet_of(value: Any) -> bool | None:
    """Whether to show no progress."""
    return flag("quiet", value, none="progress is shown at a terminal only")


def seed_of(value: Any) -> int:
    """A seed that torch and NumPy both take."""
    return whole_number("seed", value, least=0, most=2**32 - 1)


def memory_limit(value: Any) -> int | None:
    """A limit in bytes, from bytes or text such as ``"2GB"``."""
    if value is None or isinstance(value, str):
        return None if value is None else parse_size(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value) or value < 1:
        raise ConfigError(f"mem_limit is {shown(value)}; give bytes as a number, text such as '2GB', or None")
    return int(float(value))


def device_name(value: Any) -> str | None:
    """The name of a device; whether there is such a device is found by whoever goes there."""
    if value is None:
        return None
    name = str(value) if type(value).__module__ == "torch" and type(value).__name__ == "device" else value
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"device is {shown(value)}; use 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps', or None")
    return name


# ---------------------------------------------------------------------- paths and runs


def path_of(what: str, value: Any, family: type[LwexplainError] = RunError) -> Path:
    """A path from text or a path object."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise family(f"{what} is {shown(value)}; give a path as text or a pathlib.Path")
    if not text.strip() or "\0" in text:
        raise family(f"{what} is {shown(text)}, which is no path; give one without null characters")
    try:
        longest, whole = max(len(os.fsencode(part)) for part in (*Path(text).parts, "")), len(os.fsencode(text))
    except UnicodeEncodeError:
        raise family(f"{what} is {shown(text)}, which is no text that a path can hold; give another one") from None
    if longest > LONGEST_NAME or whole > LONGEST_PATH:
        raise family(f"{what} is {shown(text)}; a path has at most {LONGEST_PATH} bytes and {LONGEST_NAME} in a name")
    return Path(text)


# ---------------------------------------------------------------------- names


def probes_of(value: Any) -> list[Any] | None:
    """Names of probes and probe objects in a list; None stays None. Whether each is a probe, the engine knows."""
    if value is None:
        return None
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable) or not (probes := list(value)):
        raise ProbeError(
            f"probes is {shown(value)}; name at least one in a list, or pass None for all: "
            "names of lwexplain list probes, or objects with a name and measure(stage)"
        )
    named = [probe for probe in probes if isinstance(probe, str)]
    if len(set(named)) < len(named):
        raise ProbeError(f"probes is {shown(probes)}, in which one is named twice; name each once")
    return probes


def class_names(value: Any) -> list[str] | None:
    """Distinct names of classes in order; None stays None."""
    if value is None:
        return None
    if isinstance(value, (str, bytes, Mapping, set, frozenset)) or not isinstance(value, Iterable):
        raise CaptureError(f"classes is {shown(value)}; give the name of every class in a list, in the order of labels")
    names = list(value)
    for name in names:
        if not isinstance(name, str):
            raise CaptureError(f"classes holds {shown(name)}; names are text, such as [str(name) for name in classes]")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise CaptureError(f"classes names {shown(twice)} more than once; every class needs a name of its own")
    if not names:
        raise CaptureError("classes is empty; name every class, or pass None to number them")
    return [str(name) for name in names]


def stage_names(value: Any) -> list[str]:
    """Names of modules, at least one and none twice."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        raise CaptureError(f"stages is {shown(value)}; expected a list of at least one module name, in running order")
    for name in value:
        if not isinstance(name, str):
            raise CaptureError(f"stages holds {shown(name)}; expected a list of at least one module name (text)")
    twice = sorted({name for name in value if list(value).count(name) > 1})
    if twice:
        raise CaptureError(f"stages named more than once: {shortened(', '.join(twice), 100)}; name each stage once")
    return [str(name) for name in value]


def pooling_of(value: Any, *, own: bool) -> str | Callable[..., Any]:
    """A pooling by name, or where ``own`` ones are taken also a function from the output of a stage to (N, D)."""
    if own and callable(value) and not isinstance(value, type):
        return value
    if not isinstance(value, str) or value not in POOLINGS:
        also = " or a function from a stage's output to (N, D)" if own else ""
        hint = nearest(value, list(POOLINGS)) if isinstance(value, str) else f"known: {', '.join(POOLINGS)}"
        raise CaptureError(f"pooling is {shown(value)}; choose one of {', '.join(POOLINGS)}{also} ({hint})")
    return value
