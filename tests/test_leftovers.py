"""What killed processes leave is swept by the next one that writes there; what a living one writes is not."""

import multiprocessing
import os
import signal
import tempfile

import pytest

from lwexplain.run import Run
from lwexplain.run.files import atomic_path
from lwexplain.run.scratch import ScratchFolder, scratch_folder, sweep


def in_a_killed_process(function, *arguments):
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_writing_a_file(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        die()


def die_writing_a_part(path):
    with Run.open(path).files.replacing_folder("analysis/parts/knn") as folder:
        folder.write_text("rows", "half")
        die()


def die_writing_the_manifest(path):
    with Run.open(path).files.replacing("run.json"):
        die()


def die_making_a_run(path):
    Run.save_manifest = lambda self: die()
    Run.create(path, "")


def die_with_a_scratch_folder():
    (ScratchFolder("features").path / "x.npy").write_text("large")
    die()


def hidden(folder):
    return sorted(path.name for path in folder.rglob(".*") if path.name != ".lock")


def test_a_file_that_was_not_finished_goes_with_the_next_one_of_its_name(tmp_path):
    in_a_killed_process(die_writing_a_file, tmp_path / "net.pt2")
    (tmp_path / ".net.pt2.mine.tmp").touch()
    assert len(hidden(tmp_path)) == 2
    with atomic_path(tmp_path / "net.pt2") as temporary:
        temporary.write_text("whole")
    assert hidden(tmp_path) == [".net.pt2.mine.tmp"]
    assert (tmp_path / "net.pt2").read_text() == "whole"


@pytest.mark.parametrize("leave", [die_writing_a_part, die_writing_the_manifest])
def test_who_holds_a_run_sweeps_it(tmp_path, leave):
    run = Run.create(tmp_path / "run", "")
    (run.path / ".notes").touch()
    in_a_killed_process(leave, run.path)
    assert len(hidden(run.path)) == 2
    with run.lock("the next command"):
        assert hidden(run.path) == [".notes"]


def test_what_is_being_written_is_not_swept(tmp_path):
    run = Run.create(tmp_path / "run", "")
    with run.files.replacing("report.html") as temporary:
        temporary.write_text("whole")
        with run.lock("the next command"):
            pass
    assert (run.path / "report.html").read_text() == "whole"


def test_a_run_whose_making_was_killed_is_made_anew(tmp_path):
    in_a_killed_process(die_making_a_run, tmp_path / "run")
    (tmp_path / ".run.notours.new").mkdir()
    assert len(hidden(tmp_path)) > 1
    Run.create(tmp_path / "run", "")
    assert hidden(tmp_path) == [".run.notours.new"]


def test_scratch_folders_of_killed_processes_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    in_a_killed_process(die_with_a_scratch_folder)
    (tmp_path / "lwexplain-features").mkdir()
    (tmp_path / "lwexplain-umap-link").symlink_to(tmp_path / "lwexplain-features")
    assert len(list(tmp_path.iterdir())) == 3
    with scratch_folder("features") as mine:
        sweep()
        assert {path.name for path in tmp_path.iterdir()} == {"lwexplain-features", "lwexplain-umap-link", mine.name}
    assert not mine.exists()


@pytest.mark.parametrize("place", ["/dev/full", "/dev/null"])
def test_a_device_is_never_replaced_by_a_file(place, tmp_path):
    (tmp_path / "link").symlink_to(place)
    before = os.stat(place)
    for path in (place, str(tmp_path / "link")):
        with pytest.raises(Exception, match=r"is a device and will not be replaced"), atomic_path(path) as temporary:
            temporary.write_text("text")
    assert os.stat(place) == before


def test_a_link_that_a_person_names_is_written_through(tmp_path):
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "report.html")
    with atomic_path(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "report.html").read_text() == "new"
