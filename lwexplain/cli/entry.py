"""The program ``lwexplain``: runs a command; errors, warnings and signals become lines on stderr and an exit code."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from lwexplain.cli.own_network import app
from lwexplain.errors import LwexplainError, LwexplainWarning, TrainingInterrupted, mend
from lwexplain.program import is_first_process
from lwexplain.signals import EndedBySignal, ended_by_signals
from lwexplain.terminal import ReaderGone, flush, prepare_streams, tell, tell_error
from lwexplain.text import plain

UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""Whatever typer raises where the command line itself is wrong."""


def main() -> None:
    """Entry point: errors for a person in one or two lines and exit code 2; ``--verbose`` shows the traceback."""
    prepare_streams()
    arguments = sys.argv[1:]
    verbose = "--verbose" in arguments
    code = 0
    try:
        with ended_by_signals(), notes_on_stderr():
            code = app([item for item in arguments if item != "--verbose"], "lwexplain", standalone_mode=False)
            flush()
    except ReaderGone:
        code = 1
    except UsageError as error:
        if arguments:
            tell_error(f"{error.format_message()} See lwexplain {_command_of(arguments)}--help")
        else:
            error.show()  # the list of commands
        code = 2
    except EndedBySignal as ended:
        if is_first_process():
            tell(f"stopped by {ended}; run the same command again, train with --resume where its run has begun")
        code = 128 + ended.number
    except (LwexplainError, OSError, MemoryError) as error:
        if verbose:
            raise
        if is_first_process():
            tell_error(_in_words(error))
        code = 130 if isinstance(error, TrainingInterrupted) else 2
    finally:
        _leave_the_other_processes()
    sys.exit(code or 0)


def _leave_the_other_processes() -> None:
    """Take down what a command has built up under torchrun: its threads must not outlive Python."""
    module = sys.modules.get("lwexplain.processes")
    if module is not None:
        module.leave_world()


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Within the block, warnings of lwexplain are lines on standard error; of several processes the first one's."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LwexplainWarning)
        show = warnings.showwarning

        def note(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, LwexplainWarning):
                show(message, category, *place, **more)
            elif is_first_process():
                tell(f"note: {message}")

        warnings.showwarning = note
        yield


def _in_words(error: BaseException) -> str:
    """An error with the next step."""
    if isinstance(error, OSError):
        what = error.strerror or str(error)
        return f"{what}{f': {plain(error.filename)}' if error.filename else ''}; {mend(error)}"
    if isinstance(error, MemoryError):
        return "there is not enough memory; take fewer samples (--max-samples) or smaller batches (data.batch_size)"
    return str(error)


def _command_of(arguments: list[str]) -> str:
    """``train `` where the command of that name was called."""
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    return next((f"{item} " for item in arguments if item in names), "")
