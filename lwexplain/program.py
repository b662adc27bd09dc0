"""How the person who reads a message can call lwexplain from where they stand."""

import os
import shutil
import sys
from pathlib import Path

from lwexplain.text import shell_command


def own_command(*words: str | Path) -> str:
    """A command line of lwexplain to copy, which works also where its folder is not on the PATH.

    It begins with ``lwexplain`` where the shell finds the program that runs now, else with the path of that program
    (``.venv/bin/lwexplain``), else with ``python -m lwexplain``.
    """
    return shell_command(*_program(), *words)


def _program() -> list[str | Path]:
    interpreter = Path(sys.executable)
    program = interpreter.with_name("lwexplain")
    if not os.access(program, os.X_OK):
        return [_near(interpreter), "-m", "lwexplain"]
    found = shutil.which("lwexplain")
    return ["lwexplain"] if found and Path(found).resolve() == program.resolve() else [_near(program)]


def _near(path: Path) -> Path:
    """The path from the working directory where it lies below that, else whole."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
