"""The UMAP process ends with what started it, and says why it failed."""

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
from lwexplain.probes.umap_layout import Options
from lwexplain.probes.umap_process import UmapProcess

OPTIONS = Options(seed=0, neighbors=5, near=5, epochs=20)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary folders are made in."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def started(options: Options = OPTIONS) -> UmapProcess:
    return UmapProcess([np.random.default_rng(0).normal(size=(40, 3))], options)


def test_a_dropped_process_is_killed_and_its_folder_removed(temporary: Path) -> None:
    handle = started()
    process = handle._process
    assert process.poll() is None
    assert len(list(temporary.iterdir())) == 1
    del handle
    gc.collect()
    assert process.poll() == -signal.SIGKILL
    assert not list(temporary.iterdir())


def test_a_slow_process_is_told_and_ended(temporary: Path) -> None:
    handle = started()
    with pytest.raises(ProbeError, match=r"took longer than 0.01 s; use fewer samples"):
        handle.layouts(0.01)
    assert handle._process.poll() is not None
    assert not list(temporary.iterdir())


def test_a_failing_process_gives_its_reason(temporary: Path) -> None:
    with pytest.raises(ProbeError, match=r"failed in its process: ValueError: expected non-negative integer"):
        started(Options(seed=-1, neighbors=5, near=5, epochs=1)).layouts(60)
    assert not list(temporary.iterdir())


def test_features_that_cannot_be_written_leave_nothing_behind(temporary: Path) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        UmapProcess([np.array(["a"])], OPTIONS)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "sys.exit()"])
def test_the_process_does_not_outlive_its_parent(end: str, tmp_path: Path) -> None:
    code = f"""
import os, sys, numpy as np
from lwexplain.probes.umap_layout import Options
from lwexplain.probes.umap_process import UmapProcess
handle = UmapProcess([np.zeros((40, 3))], Options(seed=0, neighbors=5, near=5, epochs=10**6))
print(handle._process.pid, flush=True)
{end}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, check=False
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 15
    while (running(pid) or list(tmp_path.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(pid)
    assert not list(tmp_path.iterdir())


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan that nobody waits for stays a zombie
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
