"""Where a person's own logger gets the numbers of each look: a function, TensorBoard, or a wandb-compatible run."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lwexplain.arguments import shown
from lwexplain.errors import CaptureError, LwexplainWarning

Numbers = Mapping[str, float]
Send = Callable[[Numbers, int], None]

FORMS = (
    "a function of (numbers, step), a torch SummaryWriter (add_scalar), a logger of Lightning (log_metrics), or a "
    "wandb-compatible run or module (log)"
)


class Sink:
    """Sends numbers, named ``lwexplain/STAGE/METRIC``, to whatever was given; no logger is imported for it.

    What is recognised, in this order: ``add_scalar(name, value, step)``, ``log_metrics(numbers, step=...)``,
    ``log(numbers, step=...)``, a function of (numbers, step). A sink that raises is told in a warning, once, and the
    training goes on. Raises CaptureError for anything else.
    """

    def __init__(self, sink: Any) -> None:
        self.send = _sender(sink)
        self._warned = False

    def __call__(self, numbers: Numbers, step: int) -> None:
        try:
            self.send(numbers, step)
        except Exception as error:  # somebody's logger: its network is down, its disk is full
            if not self._warned:
                message = f"the sink raised {type(error).__name__}: {shown(str(error), 200)}; the run keeps the numbers"
                warnings.warn(message, LwexplainWarning, stacklevel=4)
            self._warned = True


def _sender(sink: Any) -> Send:
    if callable(add := getattr(sink, "add_scalar", None)):

        def to_writer(numbers: Numbers, step: int) -> None:
            for name, value in numbers.items():
                add(name, value, step)

        return to_writer
    log = getattr(sink, "log_metrics", None) or getattr(sink, "log", None)
    if callable(log):

        def to_log(numbers: Numbers, step: int) -> None:
            log(dict(numbers), step=step)

        return to_log
    if callable(sink):
        return lambda numbers, step: sink(dict(numbers), step)
    raise CaptureError(f"sink is {shown(sink)}; expected {FORMS}")
