"""Ctrl-C and SIGTERM as a wish that the training loop grants at the end of a step."""

import signal
from types import FrameType
from typing import Any


class Interruption:
    """A context manager under which SIGINT and SIGTERM only set ``asked``.

    Outside the main thread, where Python forbids signal handlers, signals are left to whoever runs the thread.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
