"""The UMAP process compiles before it has work, ends with what started it, and says why it failed."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lwexplain.errors import ProbeError
from lwexplain.probes.embedding.umap_layout import Options
from lwexplain.probes.embedding.umap_process import UmapProcess

OPTIONS = Options(seed=0, neighbors=5, near=5, epochs=20)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder that temporary folders are made in."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def started():
    handle = UmapProcess()
    handle.compute([np.random.default_rng(0).normal(size=(40, 3))], OPTIONS)
    return handle


@pytest.mark.parametrize("start", [UmapProcess, started])
def test_a_dropped_process_is_killed_and_its_folder_removed(start, temporary):
    handle = start()
    process = handle._process
    assert process.poll() is None
    assert len(list(temporary.iterdir())) == 1
    del handle
    gc.collect()
    assert process.poll() == -signal.SIGKILL
    assert not list(temporary.iterdir())


def test_a_slow_process_is_told_and_ended(temporary):
    handle = started()
    with pytest.raises(ProbeError, match=r"took longer than 0.01 s; use fewer samples"):
        handle.layouts(0.01)
    assert handle._process.poll() is not None
    assert not list(temporary.iterdir())


def test_a_failing_process_gives_its_reason(temporary):
    handle = UmapProcess("torchdr")  # which compiles nothing ahead
    handle.compute([np.zeros((40, 3))], Options(seed=-1, neighbors=5, near=5, epochs=1, backend="torchdr"))
    with pytest.raises(ProbeError, match=r"failed in its process: ValueError: expected non-negative integer"):
        handle.layouts(60)
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_what_was_compiled_before_changes_nothing(temporary):
    """Against the same layouts in a process that compiles for these features."""
    code = """
import sys, numpy as np
from lwexplain.probes.embedding.umap_layout import Options, layouts
stages = [np.load(file) for file in sys.argv[1:]]
found = list(layouts(iter(stages), Options(seed=3, neighbors=15, near=15, epochs=200)))
sys.stdout.buffer.write(np.stack([layout for layout, _, _ in found]).tobytes())
"""
    rng = np.random.default_rng(0)
    stages = [rng.normal(size=(90, columns)).astype(np.float32) for columns in (70, 8)]
    files = [str(temporary / f"{i}.npy") for i in range(2)]
    for file, x in zip(files, stages, strict=True):
        np.save(file, x)
    handle = UmapProcess()
    with subprocess.Popen([sys.executable, "-c", code, *files], stdout=subprocess.PIPE) as direct:
        assert handle.is_busy()
        wait_until(lambda: not handle.is_busy(), 120)
        assert handle._process.poll() is None
        handle.compute(stages, Options(seed=3, neighbors=15, near=15, epochs=200))
        assert handle.is_busy()
        found = handle.layouts(120)
        assert not handle.is_busy()
        assert direct.stdout is not None
        assert np.stack(found.coordinates).tobytes() == direct.stdout.read()


def test_a_process_that_cannot_compile_gives_its_reason(temporary, monkeypatch):
    (temporary / "modules").mkdir()
    (temporary / "modules" / "umap.py").write_text("raise ImportError('umap is broken')")
    monkeypatch.setenv("PYTHONPATH", str(temporary / "modules"))
    for wait in (True, False):
        handle = UmapProcess()
        if wait:
            wait_until(lambda: not handle.is_busy(), 60)  # noqa: B023 - called at once
        handle.compute([np.zeros((40, 3))], OPTIONS)
        with pytest.raises(ProbeError, match="UMAP failed in its process: ImportError: umap is broken"):
            handle.layouts(60)
    assert [entry.name for entry in temporary.iterdir()] == ["modules"]


@pytest.mark.parametrize("work", ["", "handle.compute([np.zeros((40, 3))], Options(0, 5, 5, epochs=10**6))"])
@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "sys.exit()"])
def test_the_process_does_not_outlive_its_parent(end, work, tmp_path):
    code = f"""
import os, sys, numpy as np
from lwexplain.probes.embedding.umap_layout import Options
from lwexplain.probes.embedding.umap_process import UmapProcess
handle = UmapProcess()
{work}
print(handle._process.pid, flush=True)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, check=False
    )
    pid = int(done.stdout)
    wait_until(lambda: not running(pid) and not list(tmp_path.iterdir()), 15)


def wait_until(holds, seconds):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan that nobody waits for stays a zombie
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
