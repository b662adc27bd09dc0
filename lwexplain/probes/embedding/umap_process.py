"""A UMAP process seen from its parent: started, given its work, waited for, and never left behind."""

import contextlib
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lwexplain.errors import ProbeError
from lwexplain.probes.embedding.umap_layout import READY, Options
from lwexplain.run.scratch import ScratchFolder

MODULE = "lwexplain.probes.embedding.umap_layout"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Layouts:
    """Per stage the layout (N, 2) float32, its trustworthiness and the share of neighbours kept, in [0, 1]."""

    coordinates: list[np.ndarray]
    trustworthiness: list[float]
    neighbors_kept: list[float]


class UmapProcess:
    """Computes layouts while this process does something else; with ``umap`` it compiles even before it has work.

    The process and its temporary folder end with this object, with the interpreter, and with the parent process
    even where that is killed.
    """

    def __init__(self, backend: str = "umap") -> None:
        scratch = ScratchFolder("umap")
        try:
            self._process = _start(scratch.path, backend)
        except BaseException:
            scratch.remove()
            raise
        self._folder = scratch.path
        self._handed_over: float | None = None  # when, on the monotonic clock
        self._finalizer = weakref.finalize(self, _end, self._process, scratch, os.getpid())

    def compute(self, features: Iterable[np.ndarray], options: Options) -> None:
        """Hand over the ``features`` (N, D), one array a stage, of the backend's ``options``; returns at once.

        A process that has failed by now is told by ``layouts``.
        """
        for i, x in enumerate(features):
            np.save(self._folder / f"features_{i}.npy", np.asarray(x, dtype=np.float32))
        (self._folder / "options.json").write_text(json.dumps(asdict(options)))
        self._handed_over = time.monotonic()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended
            self._process.stdin.write(b"\n")

    def is_busy(self) -> bool:
        """Whether the process is compiling or computing; neither where it waits for its work, or has ended."""
        waits = self._handed_over is None and (self._folder / READY).exists()
        return self._process.poll() is None and not waits

    def layouts(self, timeout: float) -> Layouts:
        """Wait for the layouts, at most until ``timeout`` seconds after ``compute``, and end the process.

        Raises ProbeError with the last line of the process's error output, or where the time is over.
        """
        assert self._handed_over is not None
        left = self._handed_over + timeout - time.monotonic()
        try:
            code = self._process.wait(max(left, 0.0))
            if code != 0:
                lines = (self._folder / "errors.txt").read_text(errors="replace").strip().splitlines()
                raise ProbeError(f"UMAP failed in its process: {lines[-1] if lines else f'exit code {code}'}")
            with np.load(self._folder / "layouts.npz", allow_pickle=False) as data:
                count = len(data["trustworthiness"])
                return Layouts(
                    [data[f"layout_{i}"] for i in range(count)],
                    data["trustworthiness"].tolist(),
                    data["neighbors_kept"].tolist(),
                )
        except subprocess.TimeoutExpired:
            raise ProbeError(f"UMAP took longer than {timeout:g} s; use fewer samples") from None
        finally:
            self.end()

    def end(self) -> None:
        """Kill the process if it still runs, and remove its folder."""
        self._finalizer()


def _start(folder: Path, backend: str) -> "subprocess.Popen[bytes]":
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    # one thread: the layout does not depend on the number of cores, and other probes run beside it
    environment = {**os.environ, "PYTHONPATH": path, **dict.fromkeys(THREADS, "1")}
    with (folder / "errors.txt").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE, str(folder), backend],
            env=environment,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def _end(process: "subprocess.Popen[bytes]", scratch: ScratchFolder, owner: int) -> None:
    if os.getpid() != owner:  # a forked copy of the parent
        return
    process.kill()
    process.wait()
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    scratch.remove()
