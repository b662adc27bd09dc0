"""Ctrl-C, SIGTERM and a closed terminal as a wish that the training loop grants at the end of a step."""

import signal
from types import FrameType
from typing import Any

from lwexplain.signals import ENDING


class Interruption:
    """A context manager under which SIGINT, SIGTERM and SIGHUP only set ``asked``.

    Signals that were set to be ignored (nohup) stay ignored. Outside the main thread, where Python forbids signal
    handlers, signals are left to whoever runs the thread.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in ENDING:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
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
