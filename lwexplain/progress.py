"""Progress with the time left, on stderr, for a person at a terminal; silent elsewhere."""

import sys
from contextlib import suppress
from types import TracebackType
from typing import TextIO, cast

from lwexplain.terminal import Forgiving
from lwexplain.text import plain

LONGEST = 60  # characters of what is going on


def tell_note(note: str) -> None:
    """A sentence for the person, on stderr."""
    with suppress(OSError, ValueError, AttributeError):  # nobody listens
        print(f"note: {plain(note, None)}", file=sys.stderr)


class Progress:
    """A progress bar as a context manager. ``quiet=None`` shows it only where stderr is a terminal."""

    def __init__(self, title: str, total: int, *, quiet: bool | None = None) -> None:
        self._bar = None
        if sys.stderr is None or sys.stderr.closed:
            quiet = True
        elif quiet is None:
            quiet = not sys.stderr.isatty()
        if not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(file=cast(TextIO, Forgiving(sys.stderr))),
            )
            self._task = self._bar.add_task(plain(title, LONGEST), total=total)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more as done."""
        if self._bar:
            self._bar.advance(self._task, steps)

    def move_to(self, done: int, total: int) -> None:
        """Set how much is done of how much."""
        if self._bar:
            self._bar.update(self._task, completed=done, total=total)

    def describe(self, text: str) -> None:
        """Show what is going on."""
        if self._bar:
            self._bar.update(self._task, description=plain(text, LONGEST))
