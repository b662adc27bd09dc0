"""How the person who reads a message calls lwexplain: in a shell, by the way this program was called, or in Python."""

import os
import shutil
import sys
from pathlib import Path

from lwexplain.text import shell_command

PROGRAM = "lwexplain"


def own_command(*words: str | Path) -> str:
    """A command line of lwexplain to copy, which works also where its folder is not on the PATH.

    It begins with ``lwexplain`` where the shell finds it, else as this program was called: ``.venv/bin/lwexplain``, or
    ``.venv/bin/python -m lwexplain``.
    """
    return shell_command(*_program(), *words)


def at_command_line() -> bool:
    """Whether this process is the program ``lwexplain``, and not a notebook or a script that imports it."""
    called = Path(sys.argv[0]) if sys.argv else Path()
    return called.name == PROGRAM or called.parts[-2:] == (PROGRAM, "__main__.py")


def own_option(name: str) -> str:
    """An option as it is written where this process was called: ``--run-dir``, or in Python ``run_dir=``."""
    return f"--{name.replace('_', '-')}" if at_command_line() else f"{name}="


def is_first_process() -> bool:
    """True unless ``torchrun`` has started this process beside another one, which then speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _program() -> list[str | Path]:
    called = Path(sys.argv[0]) if sys.argv else Path()
    beside = Path(sys.executable).with_name(PROGRAM)
    if not at_command_line() or len(called.parts) < 2:
        return [PROGRAM]
    if _is_on_path(beside):
        return [PROGRAM]
    if called.name == PROGRAM:
        return [_near(called)]
    return [_near(beside)] if os.access(beside, os.X_OK) else [_near(Path(sys.executable)), "-m", PROGRAM]


def _is_on_path(program: Path) -> bool:
    found = shutil.which(PROGRAM)
    return found is not None and Path(found).resolve() == program.resolve()


def _near(path: Path) -> Path:
    """The path from the working directory where it lies below that, else whole."""
    whole = path.absolute()
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole
