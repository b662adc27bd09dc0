"""Signals that end a process, as exceptions: what stands open is put away before the process goes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class EndedBySignal(BaseException):
    """SIGINT, SIGTERM or SIGHUP has come; ``number`` says which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block, a signal that would end the process raises EndedBySignal.

    Signals that were set to be ignored (nohup, a job in the background) stay ignored. A process forked from this one
    is ended by them as usual. Outside the main thread, where Python forbids signal handlers, nothing changes.
    """
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise EndedBySignal(number)

    previous = {}
    try:
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, end)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
