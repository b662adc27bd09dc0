"""Commands keep order whatever standard output and error are: closed, full, broken, of a narrow code."""

import io
import os
import signal
import subprocess
import sys

import pytest

from lwexplain.errors import MENDS, LwexplainError, mend
from lwexplain.progress import Progress
from lwexplain.signals import EndedBySignal, ended_by_signals
from lwexplain.terminal import Forgiving, say_table, tell_error
from lwexplain.text_table import TextTable
from tests.app.run_factory import make_run

COMMAND = f"{sys.executable} -m lwexplain recommend RUN --rules"


def shell(line, **environment):
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of made-up numbers: a command that reads it needs no torch."""
    return make_run(tmp_path_factory.mktemp("run") / "run", pictures=False).path


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (f"{COMMAND} > /dev/full", 2, "error: the results cannot be written to the standard output: No space left"),
        (f"{COMMAND} >&-", 0, ""),
        (f"{COMMAND} 2>&- >/dev/null", 0, ""),
        (f"{COMMAND} <&- >&- 2>&-", 0, ""),
        (f"set -o pipefail; {COMMAND} | true", 1, ""),
    ],
    ids=["full", "output closed", "errors closed", "all closed", "reader gone"],
)
def test_an_output_that_takes_nothing_ends_a_command_in_order(run, line, code, said):
    done = shell(line.replace("RUN", str(run)))
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == (1 if said else 0)
    assert done.returncode == code or (code == 1 and done.returncode == 0)  # all was written before the reader went


@pytest.mark.parametrize("code", ["ascii", "latin-1", "utf-8"])
def test_characters_that_an_output_cannot_hold_are_spelled_out(code, tmp_path):
    name = tmp_path / "飞机"
    done = shell(f"{sys.executable} -m lwexplain recommend '{name}'", PYTHONIOENCODING=code, PYTHONUTF8="0")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no run directory")
    assert "Traceback" not in done.stderr


class Broken(io.StringIO):
    """A terminal that has gone."""

    def write(self, text):
        raise OSError(5, "Input/output error")

    def isatty(self):
        return True


def test_progress_does_not_end_with_the_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Broken())
    with Progress("train", 3, quiet=False) as progress:
        progress.advance()
        progress.describe("[red]epoch[/red]")
    assert Forgiving(Broken()).write("text") == 4


def test_without_standard_error_progress_is_quiet(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Progress("train", 3, quiet=False) as progress:
        progress.advance()


def test_an_error_keeps_its_beginning_and_its_end(capsys):
    tell_error("a" * 5000 + "\n\x1b[2J next: mend it")
    line = capsys.readouterr().err
    assert len(line) < 1700
    assert line.startswith("error: aaa")
    assert line.endswith("\\n\\x1b[2J next: mend it\n")


def test_a_table_keeps_its_columns_whatever_the_cells_hold(capsys):
    say_table(TextTable(["depth", "stage"], [["1", "a\nb"], ["10", "c" * 500]]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[2] == "    1  a\\nb"
    assert lines[3].endswith("…")


@pytest.mark.parametrize("number", MENDS)
def test_every_error_of_the_system_has_a_mend_of_its_own(number):
    assert mend(OSError(number, os.strerror(number))) == MENDS[number]
    assert len(set(MENDS.values())) == len(MENDS)


def test_too_few_descriptors_and_missing_rights_are_not_mended_by_training_anew():
    assert "ulimit -n" in mend(OSError(24, "Too many open files"))
    assert "right" in mend(PermissionError(13, "Permission denied"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_block_as_an_exception_and_handlers_are_put_back(number):
    def be_ended():
        os.kill(os.getpid(), number)
        signal.pause()

    before = signal.signal(number, signal.default_int_handler)  # in the background, a shell lets SIGINT be ignored
    with pytest.raises(EndedBySignal) as ended, ended_by_signals():
        be_ended()
    assert ended.value.number == number
    assert signal.signal(number, before) == signal.default_int_handler
    assert not isinstance(ended.value, LwexplainError)


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
