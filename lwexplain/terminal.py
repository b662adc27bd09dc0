"""How a command speaks: lines, tables and errors, whatever standard output and error are: closed, full, a narrow code.

Every line passes ``lwexplain.text.plain``, so nothing that a run, a data set or an error carries reaches the terminal
as an order.
"""

import contextlib
import json
import os
import sys
from typing import Any, TextIO

from lwexplain.errors import LwexplainError, mend
from lwexplain.text import plain
from lwexplain.text_table import LONGEST_CELL, TextTable

LONGEST_ERROR = (1200, 400)  # characters of an error's beginning and of its end, where the next step stands


class ReaderGone(Exception):
    """Whoever read the standard output has ended, as ``head`` does: there is nobody left to tell."""


def prepare_streams() -> None:
    """Make standard output and error usable: closed ones lead nowhere, characters they cannot hold are spelled out.

    A closed stream would give its number to the next file that is opened, and what is said there would land in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open as long as the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str = "") -> None:
    """One line on standard output; raises ReaderGone, or LwexplainError where it cannot be written."""
    try:
        print(plain(text, None), flush=True)
    except OSError as error:
        raise give_up_output(error) from None


def say_json(value: Any) -> None:
    """A value as JSON on standard output, in ASCII; raises as ``say``."""
    for line in json.dumps(value, indent=2).splitlines():
        say(line)


def flush() -> None:
    """Write out what others have left in standard output; raises as ``say``."""
    try:
        sys.stdout.flush()
    except OSError as error:
        raise give_up_output(error) from None


def give_up_output(error: OSError) -> Exception:
    """What to raise where standard output does not take what was written; it leads nowhere from now on."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a number has nothing to write out at the end
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    if isinstance(error, BrokenPipeError):
        return ReaderGone()
    return LwexplainError(f"the results cannot be written to the standard output: {error.strerror}; {mend(error)}")


def tell(text: str) -> None:
    """One line on standard error; where that takes nothing, nothing is said."""
    with contextlib.suppress(OSError, ValueError):
        print(plain(text, None), file=sys.stderr, flush=True)


def tell_error(message: object) -> None:
    """An error in one line on standard error; of a very long one its beginning and its end."""
    text = plain(f"error: {message}", None)
    beginning, end = LONGEST_ERROR
    tell(text if len(text) <= beginning + end else f"{text[:beginning]} … {text[-end:]}")


def say_table(table: TextTable, longest: int = LONGEST_CELL) -> None:
    """A table on standard output, with cells of at most ``longest`` characters; raises as ``say``."""
    for line in table.lines(longest):
        say(line)


class Forgiving:
    """A text stream that drops what the stream under it does not take: progress must not end what it reports on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
