"""Contents of files count, and are read once."""

import os
import sqlite3
import time

import numpy as np
import pytest
from PIL import Image

import lwexplain.data.examination as facts_module
from lwexplain.config import DataConfig
from lwexplain.data.examination import examine_files
from lwexplain.data.file_cache import FactsCache, cache_folder, stamp_of
from lwexplain.data.load import load_data


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two classes of six images whose files are all of one size, changed a while ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for row, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(10 * row + number).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.bmp")
    time.sleep(0.15)
    return tmp_path / "data"


@pytest.fixture
def examined(monkeypatch):
    """The files whose bytes have been read."""
    seen = []
    examine = facts_module.examine_file
    monkeypatch.setattr(facts_module, "examine_file", lambda path: (seen.append(path), examine(path))[1])
    return seen


def fingerprint(root):
    return load_data(DataConfig(name="folder", root=root), 0).fingerprint


def swap(one, other):
    """Exchange the contents of two files; sizes and times of change of contents are put back."""
    first, second = one.read_bytes(), other.read_bytes()
    for path, content in ((one, second), (other, first)):
        times = path.stat()
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def rename(one, other):
    spare = one.with_name("spare")
    one.rename(spare)
    other.rename(one)
    spare.rename(other)


@pytest.mark.parametrize("exchange", [swap, rename])
def test_swapped_files_of_equal_size_change_the_fingerprint(root, exchange):
    before = fingerprint(root)
    exchange(root / "cat" / "0.bmp", root / "dog" / "0.bmp")
    assert fingerprint(root) != before
    exchange(root / "cat" / "0.bmp", root / "dog" / "0.bmp")
    assert fingerprint(root) == before


def test_bytes_are_read_once(root, examined):
    before = fingerprint(root)
    assert len(examined) == 12
    assert fingerprint(root) == before
    assert len(examined) == 12


def test_a_touched_file_that_is_the_same_is_read_anew_and_passes(root, examined):
    before = fingerprint(root)
    os.utime(root / "dog" / "3.bmp")
    assert fingerprint(root) == before
    assert examined[12:] == [root / "dog" / "3.bmp"]


def test_the_folder_may_move(root, tmp_path):
    before = fingerprint(root)
    root.rename(tmp_path / "moved")
    assert fingerprint(tmp_path / "moved") == before


def test_a_file_changed_a_moment_ago_is_not_kept(root, examined):
    (root / "cat" / "0.bmp").write_bytes((root / "cat" / "1.bmp").read_bytes())
    fingerprint(root)
    kept = FactsCache(root).read()
    assert "cat/1.bmp" in kept
    fingerprint(root)
    assert examined[12:] == [root / "cat" / "0.bmp"]


@pytest.mark.parametrize("content", [b"", b"no data base", b"SQLite format 3\0" + bytes(200)])
def test_a_damaged_cache_is_made_anew(root, examined, content):
    before = fingerprint(root)
    path = FactsCache(root).path
    path.write_bytes(content)
    assert fingerprint(root) == before
    assert fingerprint(root) == before
    assert fingerprint(root) == before
    assert len(examined) <= 36
    assert len(FactsCache(root).read()) == 12


def test_rows_of_other_types_are_not_believed(root):
    before = fingerprint(root)
    path = FactsCache(root).path
    with sqlite3.connect(path) as base:
        base.execute("UPDATE facts_1 SET height = 'tall'")
    assert FactsCache(root).read() == {}
    assert fingerprint(root) == before


def test_without_a_place_to_keep_them_facts_are_found_all_the_same(root, monkeypatch):
    before = fingerprint(root)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert fingerprint(root) == before


def test_nothing_is_kept_inside_the_data(root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / ".cache"))
    fingerprint(root)
    assert FactsCache(root).path is None
    assert not (root / ".cache").exists()


def test_the_cache_lies_with_the_caches_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lwexplain"


def test_names_that_are_not_utf8_are_kept(root, examined):
    (root / "cat" / "0.bmp").rename(root / "cat" / os.fsdecode(b"\xe9.bmp"))
    time.sleep(0.15)
    assert fingerprint(root) == fingerprint(root)
    assert len(examined) == 12


def test_a_second_look_at_5000_files_takes_no_second(root):
    picture = (root / "cat" / "0.bmp").read_bytes()
    paths = [f"cat/{number}.bmp" for number in range(5000)]
    for path in paths:
        (root / path).write_bytes(picture)
    time.sleep(0.15)
    first = examine_files(root, paths)
    start = time.process_time()
    assert examine_files(root, paths) == first
    assert time.process_time() - start < 1


def test_the_stamp_of_a_file_changes_with_it(root):
    path = root / "cat" / "0.bmp"
    stamps = {stamp_of(path)}
    os.utime(path, ns=(0, 0))
    stamps.add(stamp_of(path))
    path.write_bytes(path.read_bytes() + b" ")
    stamps.add(stamp_of(path))
    assert len(stamps) == 3
