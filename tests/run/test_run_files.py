"""Files of a run are reached by checked names only: nothing outside the run is read, written or deleted."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lwexplain.errors import RunError
from lwexplain.run.binary_files import map_array, read_table, write_array, write_table
from lwexplain.run.files import MissingFileError, RunFiles, atomic_path, is_plain_name


@pytest.fixture
def outside(tmp_path):
    """A folder beside the run with files that belong to somebody."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.json").write_text('{"token": "canary"}')
    (folder / "thesis.npy").write_bytes(b"years of work")
    return folder


@pytest.fixture
def files(tmp_path):
    (tmp_path / "run" / "analysis").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    return RunFiles(tmp_path / "run")


def content_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


NAMES_THAT_LEAD_OUT = ["/etc/hostname", "../outside/secret.json", "analysis/../../outside/secret.json", "", ".", "a//b"]


@pytest.mark.parametrize("name", [*NAMES_THAT_LEAD_OUT, "..", "a\0b", "./run.json", 7, None])
def test_a_name_that_leads_out_of_the_run_is_refused_by_every_method(files, outside, name):
    before = content_of(outside)
    for use in (
        lambda: files.open(name),
        lambda: files.read_json(name),
        lambda: files.write_text(name, "x"),
        lambda: files.append(name, b"x"),
        lambda: files.cut(name, 0),
        lambda: files.within(name),
        lambda: files.sha256(name),
    ):
        with pytest.raises(RunError, match="no name of a file of a run"):
            use()
    assert not files.has(name)
    assert content_of(outside) == before


def links(root, outside):
    """A link to a file, a link to a folder, a relative one, one to another link, and one to nothing."""
    (root / "file").symlink_to(outside / "secret.json")
    (root / "folder").symlink_to(outside)
    (root / "relative").symlink_to("../outside")
    (root / "chain").symlink_to(root / "file")
    (root / "dangling").symlink_to(outside / "new.json")
    return ["file", "folder/secret.json", "relative/secret.json", "chain", "dangling"]


def test_links_below_the_run_are_never_followed(files, outside):
    before = content_of(outside)
    for name in links(files.root, outside):
        for use in (
            lambda name=name: files.open(name),
            lambda name=name: files.read_json(name),
            lambda name=name: files.append(name, b"x"),
            lambda name=name: files.cut(name, 0),
            lambda name=name: files.sha256(name),
        ):
            with pytest.raises(RunError, match="symbolic link"):
                use()
        assert not files.has(name)
    for name in ("folder", "relative"):
        with pytest.raises(RunError, match="symbolic link"):
            files.file_names(name)
        with pytest.raises(RunError, match="symbolic link"):
            files.write_text(f"{name}/new.txt", "x")
        with pytest.raises(RunError, match="symbolic link"), files.replacing_folder(f"{name}/part") as folder:
            folder.write_text("a", "x")
    assert content_of(outside) == before


def test_writing_over_a_link_replaces_the_link_and_leaves_its_target(files, outside):
    before = content_of(outside)
    links(files.root, outside)
    files.write_json("file", {"mine": 1})
    assert files.read_json("file") == {"mine": 1}
    assert content_of(outside) == before


def test_removing_a_link_removes_the_link_alone(files, outside):
    before = content_of(outside)
    links(files.root, outside)
    (files.root / "tree" / "inner").mkdir(parents=True)
    (files.root / "tree" / "inner" / "out").symlink_to(outside)
    for name in ("file", "folder", "relative", "tree", "nothing there"):
        files.remove(name)
        assert not (files.root / name).is_symlink()
    assert content_of(outside) == before


def test_a_run_that_is_itself_a_link_is_what_the_person_named(files, tmp_path):
    (tmp_path / "name").symlink_to(files.root)
    RunFiles(tmp_path / "name").write_text("analysis/note.txt", "x")
    assert (files.root / "analysis" / "note.txt").read_text() == "x"


def test_a_hard_link_is_not_changed_in_place(files, outside):
    before = content_of(outside)
    os.link(outside / "secret.json", files.root / "events.jsonl")
    for use in (lambda: files.append("events.jsonl", b"x"), lambda: files.cut("events.jsonl", 0)):
        with pytest.raises(RunError, match="hard link"):
            use()
    assert content_of(outside) == before


def test_pipes_sockets_devices_and_folders_are_no_files(files, monkeypatch):
    os.mkfifo(files.root / "pipe")
    (files.root / "folder").mkdir()
    monkeypatch.chdir(files.root)  # the name of a socket has at most some hundred characters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name, kind in (("pipe", "named pipe"), ("folder", "a folder"), ("socket", "a socket")):
            for use in (files.open, files.sha256, lambda name: files.append(name, b"x"), files.read_json):
                with pytest.raises(RunError, match=kind):
                    use(name)
            with pytest.raises(RunError, match="will not be replaced"):
                files.write_text(name, "x")


def test_a_device_is_never_replaced_by_a_file():
    with pytest.raises(RunError, match="is a device"), atomic_path(Path("/dev/full")):
        pass


def test_a_file_that_is_too_large_is_refused_before_it_is_read(files):
    with (files.root / "run.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RunError, match=r"1,099,511,627,776 bytes, expected at most 100"):
        files.read_bytes("run.json", 100)


def test_what_is_missing_and_what_may_not_be_read_is_said(files, monkeypatch):
    with pytest.raises(MissingFileError, match=r"analysis/metrics.parquet is missing; run lwexplain analyze again"):
        files.open("analysis/metrics.parquet")

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunError, match="permission denied; ask for the right"):
        files.open("run.json")


def test_temporary_names_cannot_be_guessed_and_leave_nothing(files):
    seen = set()
    for _ in range(3):
        with files.replacing("analysis/a.txt") as temporary:
            temporary.write_text("x")
            seen.add(temporary.name)
            assert temporary.parent == files.root / "analysis"
    assert len(seen) == 3
    assert all(len(name.split(".")[-2]) == 16 for name in seen)
    assert files.file_names("analysis") == ["a.txt"]
    assert os.listdir(files.root / "analysis") == ["a.txt"]


def test_leftovers_of_killed_processes_are_deleted_and_nothing_else(files):
    for name in (".a.json.0123456789abcdef.tmp", ".a.json.4711.tmp"):
        (files.root / "analysis" / name).write_text("half")
    (files.root / "analysis" / ".p.0123456789abcdef.new" / "inner").mkdir(parents=True)
    (files.root / "analysis" / ".keep").write_text("")
    files.remove_leftovers("analysis")
    assert os.listdir(files.root / "analysis") == [".keep"]


def test_names_from_files_are_plain_before_they_are_paths():
    assert all(is_plain_name(name) for name in ("umap", "grad_cam", "linear_probes.safetensors"))
    bad = ["", ".", "..", "../a", "/etc/passwd", "a/b", "a\0", ".hidden", "a b", "a" * 99, "a\n", "ü", "a.b.c", 7, None]
    assert not any(is_plain_name(name) for name in bad)


# ---------------------------------------------------------------------- arrays and tables


def header(shape, descr="<f4", order="False"):
    about = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + about.ljust(117) + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        header((2, 3)),
        header((2**40, 2**40)) + bytes(24),
        header((-1, 4)) + bytes(24),
        header((6,), "|O") + bytes(48),
        header((6,), "|S4") + bytes(24),
        header((6,), ">f4") + bytes(24),
        header((6,), "V4") + bytes(24),
        header((1,) * 7) + bytes(4),
        header((6,), order="True") + bytes(24),
        header("(" * 90) + bytes(24),
        header((6,)) + bytes(25),
    ],
)
def test_an_array_file_holds_the_plain_numbers_that_its_header_says(files, content):
    (files.root / "analysis" / "a.npy").write_bytes(content)
    with pytest.raises(RunError, match=r"a\.npy cannot be read .*run lwexplain analyze again"):
        map_array(files, "analysis/a.npy")


@pytest.mark.parametrize("shape", [(2, 3), (0,), (), (1, 2, 3, 4)])
def test_arrays_come_back_as_they_were_written(files, shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    write_array(files, "analysis/a.npy", array)
    np.testing.assert_array_equal(map_array(files, "analysis/a.npy"), array)
    np.testing.assert_array_equal(np.load(files.root / "analysis" / "a.npy"), array)


def test_tables_come_back_as_they_were_written(files):
    frame = pd.DataFrame(
        {
            "text": pd.Series(["a", None, "c"], dtype="object"),
            "kind": pd.Categorical(["x", "y", "x"]),
            "number": [0.5, np.nan, np.inf],
            "whole": [1, 2, 3],
            "gaps": pd.array([1, None, 3], dtype="Int64"),
            "flag": [True, False, True],
        }
    )
    frame.attrs = {"stages": ["a"], "n": 3}
    write_table(files, "analysis/t.parquet", frame)
    back = read_table(files, "analysis/t.parquet")
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs == frame.attrs
    assert pd.read_parquet(files.root / "analysis" / "t.parquet").shape == frame.shape


def test_tables_with_other_things_than_numbers_and_text_are_refused(files):
    path = files.root / "analysis" / "t.parquet"
    for column in ([[1], [2]], [{"a": 1}, {"a": 2}], [b"x", b"y"], pd.to_datetime(["2020", "2021"])):
        pd.DataFrame({"a": column}).to_parquet(path)
        with pytest.raises(RunError, match="neither numbers nor text"):
            read_table(files, "analysis/t.parquet")


def test_a_small_file_that_unpacks_to_very_much_is_refused(files):
    path = files.root / "analysis" / "t.parquet"
    pd.DataFrame({"a": np.zeros(2**25 + 1, np.int8)}).to_parquet(path)
    assert path.stat().st_size < 2**20
    with pytest.raises(RunError, match="more than fit"):
        read_table(files, "analysis/t.parquet")


def test_writers_of_one_file_do_not_take_each_others_for_leftovers(tmp_path):
    def write(number):
        for _ in range(200):
            RunFiles(tmp_path).write_json("part.json", {"writer": number})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["part.json"]
