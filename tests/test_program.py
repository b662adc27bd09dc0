"""Messages speak the language of whoever reads them: a command that the shell finds, or Python."""

import sys
from pathlib import Path

import pytest

import lwexplain as lw
from lwexplain.config import Config
from lwexplain.errors import RunError
from lwexplain.program import own_command, own_option


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A program below the working directory, as ``make`` leaves it: not on the PATH."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("lwexplain", "python"):
        (folder / name).write_text("")
        (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return folder


@pytest.mark.parametrize(
    ("called", "line"),
    [
        (".venv/bin/lwexplain", ".venv/bin/lwexplain explore 'my runs'"),
        ("{folder}/lwexplain", ".venv/bin/lwexplain explore 'my runs'"),
        ("{folder}/../lib/lwexplain/__main__.py", ".venv/bin/lwexplain explore 'my runs'"),
        ("lwexplain", "lwexplain explore 'my runs'"),
        ("notebook.py", "lwexplain explore 'my runs'"),
        ("", "lwexplain explore 'my runs'"),
    ],
)
def test_a_command_can_be_copied_though_its_folder_is_not_on_the_path(installed, monkeypatch, called, line):
    monkeypatch.setattr(sys, "argv", [called.format(folder=installed)])
    assert own_command("explore", Path("my runs")) == line


def test_on_the_path_the_name_is_enough(installed, monkeypatch):
    monkeypatch.setenv("PATH", str(installed))
    monkeypatch.setattr(sys, "argv", [str(installed / "lwexplain")])
    assert own_command("report", "run") == "lwexplain report run"


@pytest.mark.parametrize(
    ("called", "option", "words"),
    [
        ("lwexplain", "--run-dir", "with --run-dir, or go on with the run in it by --resume"),
        ("notebook.py", "run_dir=", "with run_dir=, or go on with the run in it by resume=True"),
    ],
)
def test_a_second_run_into_the_same_folder_is_refused_in_the_words_of_the_caller(
    tmp_path, monkeypatch, called, option, words
):
    monkeypatch.setattr(sys, "argv", [called])
    lw.Run.create(tmp_path / "run", Config().to_yaml())
    assert own_option("run_dir") == option
    with pytest.raises(RunError) as refused:
        lw.Run.create(tmp_path / "run", Config().to_yaml())
    assert words in str(refused.value)


def test_an_unfinished_run_tells_a_notebook_the_call_that_goes_on(tmp_path, monkeypatch):
    run = lw.Run.create(tmp_path / "run", Config().to_yaml())
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    with pytest.raises(RunError, match=r"--resume, or lw\.train\('.*config\.yaml', run_dir='.*run', resume=True\)"):
        run.require_trained()
    monkeypatch.setattr(sys, "argv", ["lwexplain"])
    with pytest.raises(RunError) as refused:
        run.require_trained()
    assert "lw.train" not in str(refused.value)
