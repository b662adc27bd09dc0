"""JSON and YAML that a stranger may have written: parsed with bounds on size, depth and numbers.

What cannot be parsed raises ValueError. Its message names the place, never the content: the file may not be what it
is said to be.
"""

import json
import math
import re
from typing import Any

MOST_JSON = 16 * 2**20
"""Bytes of a JSON file or of a line of one."""

MOST_YAML = 256 * 2**10
"""Bytes of a YAML file."""

MOST_VALUES = 500_000
DEEPEST = 64
LARGEST_NUMBER = 2**63

NESTED_TOO_DEEPLY = f"it is nested more than {DEEPEST} levels deep"


def parse_json(raw: bytes | str) -> Any:
    """The value of a JSON text in UTF-8; raises ValueError.

    Refused are more than 500,000 values, 64 levels, whole numbers of more than 64 bits, NaN and infinities, and text
    that is not Unicode.
    """
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    if len(data) > MOST_JSON:
        raise ValueError(f"it has {len(data):,} bytes, expected at most {MOST_JSON:,}")
    if sum(data.count(mark) for mark in (b",", b":", b"[", b"{")) > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    try:
        value = json.loads(
            data.decode("utf-8"), parse_int=_whole_number, parse_float=_finite, parse_constant=_no_constant
        )
    except RecursionError:
        raise ValueError(NESTED_TOO_DEEPLY) from None
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    check_tree(value)
    return value


def json_bytes(value: Any) -> bytes:
    """A value as JSON text that ``parse_json`` takes; raises ValueError for NaN and infinities."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; raises ValueError.

    Refused are anchors and aliases, tags, more than 64 levels, and whole numbers of more than 64 bits.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if getattr(event, "anchor", None) is not None:
                raise ValueError(f"line {line} holds an anchor or alias (& or *): write the value out at each place")
            if getattr(event, "tag", None) not in (None, "!"):
                raise ValueError(f"line {line} holds a tag (!): only plain values are taken")
            if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                depth += 1
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                depth -= 1
            if depth > DEEPEST:
                raise ValueError(f"line {line}: {NESTED_TOO_DEEPLY}")
        value = yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{_without_content(error.problem or 'it is not valid YAML')}") from None
    except yaml.YAMLError:
        raise ValueError("it holds characters that YAML does not allow") from None
    except (RecursionError, OverflowError):
        raise ValueError("it holds a value that cannot be read") from None
    except ValueError as error:
        raise ValueError(_without_content(str(error))) from None
    check_tree(value)
    return value


def check_tree(tree: Any) -> None:
    """Raise ValueError where a tree of lists and mappings is too deep, or holds text or numbers nobody can use."""
    waiting = [(tree, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if depth > DEEPEST:
                raise ValueError(NESTED_TOO_DEEPLY)
            if isinstance(value, dict):
                waiting.extend((key, depth) for key in value)
                value = list(value.values())
            waiting.extend((item, depth + 1) for item in value)
        elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise ValueError("it holds a whole number of more than 64 bits")
        elif isinstance(value, str) and not _is_unicode(value):
            raise ValueError("it holds text that is not Unicode")


def _whole_number(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("it holds a whole number of more than 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("it holds a number beyond the range of a float")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is not JSON")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _without_content(message: str) -> str:
    """A parser's message with what it quotes of the file cut to a few characters."""
    line = " ".join(message.split())
    return re.sub(r"(['\"])(.{12}).*\1", r"\1\2...\1", line)[:120]
