import errno
import json
import os
import subprocess
import sys

import pytest

from lwexplain.errors import RunError
from lwexplain.run import Run
from lwexplain.run.files import atomic_path


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "seed: 3\n")


def test_a_new_run_can_be_opened_again(run):
    again = Run.open(run.path)
    assert again.status == "created"
    assert again.config() == {"seed": 3}
    assert again.manifest["schema_version"] == 1
    assert "torch" in json.loads((run.path / "environment.json").read_text())["packages"]


def test_a_folder_with_content_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        Run.create(tmp_path, "")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no run.json"),
        ("{", "cannot be read"),
        ("[]", "not written by lwexplain"),
        ('{"format": "other"}', "not written by lwexplain"),
        ('{"format": "lwexplain-run", "schema_version": 99}', "schema 99"),
    ],
)
def test_a_foreign_or_damaged_run_says_what_is_wrong(tmp_path, content, words):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match=words):
        Run.open(tmp_path)


def test_a_missing_run_directory_says_how_to_make_one(tmp_path):
    with pytest.raises(RunError, match="lwexplain train"):
        Run.open(tmp_path / "nowhere")


def test_an_unfinished_run_says_how_to_go_on(run):
    run.update(status="training", progress="phase 2 of 9")
    with pytest.raises(RunError, match=r"has not finished.*phase 2 of 9.*--resume"):
        run.require_trained()


def test_find_lists_runs_two_levels_deep(tmp_path):
    for name in ("b", "a", "nested/c"):
        Run.create(tmp_path / name, "")
    assert [path.name for path in Run.find(tmp_path)] == ["a", "b", "c"]
    assert Run.find(tmp_path / "a") == [tmp_path / "a"]
    assert Run.find(tmp_path / "empty") == []


def test_events_survive_a_line_cut_short(run):
    run.append_event(event="epoch", epoch=1)
    with run.events_path.open("a") as file:
        file.write('{"event": "epo')
    assert run.read_events() == [{"event": "epoch", "epoch": 1}]


def test_an_error_while_writing_leaves_the_old_file_whole_and_no_rubbish(tmp_path):
    path = tmp_path / "table"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table"]


def test_a_full_disk_is_one_clear_error_and_loses_nothing(run, monkeypatch):
    run.write_json("note.json", {"a": 1})

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*note\.json: No space left on device"):
        run.write_json("note.json", {"a": 2})
    assert run.read_json("note.json") == {"a": 1}


def test_two_processes_cannot_write_the_same_run(run):
    script = f"from lwexplain.run import Run\nwith Run.open({str(run.path)!r}).lock('second'): pass"
    with run.lock("first"):
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "is in use by first" in second.stderr
    with run.lock("third"):
        pass


def test_recorded_files_carry_size_and_digest(run):
    path = run.write_text("data.txt", "abc")
    run.record_files(path)
    entry = Run.open(run.path).manifest["files"]["data.txt"]
    assert entry == {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
