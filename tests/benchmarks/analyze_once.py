"""Analyze a run in this process and write what it took; the other analysis benchmarks start this one.

    python tests/benchmarks/analyze_once.py RUN_DIR --probes linear,knn --max-samples 5000 --out found.json

Written are the seconds of ``lwexplain.analyze`` and of each probe, the peak resident memory of the process, with
--watch-memory also that of each phase, and with --count-images the images that went through the network.
"""

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import lwexplain as lw
from lwexplain.probes.base import PROBES
from lwexplain.table import TableInfo

SAMPLING_SECONDS = 0.01


class Phases:
    """The peak of the resident memory in each phase of the analysis, sampled by a thread."""

    def __init__(self) -> None:
        self.now = "before probes"
        self.peaks: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Phases":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def note(self) -> None:
        self.peaks[self.now] = max(self.peaks.get(self.now, 0), memory("VmRSS"))

    def _watch(self) -> None:
        while not self._over.wait(SAMPLING_SECONDS):
            self.note()


class Watched:
    """A probe that says when it is at work."""

    def __init__(self, probe: Any, phases: Phases) -> None:
        self._probe, self._phases = probe, phases

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._probe, name)
        if name not in ("measure", "measure_all"):
            return found

        def measure(stages: Any) -> Any:
            self._phases.now = self._probe.name
            try:
                return found(stages)
            finally:
                self._phases.note()
                self._phases.now = "between and after probes"

        return measure


class KeptFeatures:
    """A probe that writes the test features of each stage to ``folder/STAGE.npy``."""

    name = "kept_features"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def measure(self, stage: lw.StageData) -> dict[str, float]:
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / f"{stage.name}.npy", stage.features["test"])
        return {}


class ImageCount:
    """Counts the images of one channel that enter a convolution: those that enter the network."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 1:
            self.images += len(arguments[0])


def memory(field: str) -> int:
    """Bytes of this process: ``VmRSS`` resident now, ``VmHWM`` resident at most until now (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--probes", required=True)
    parser.add_argument("--max-samples", type=int, required=True)
    parser.add_argument("--mem-limit", help="as for lwexplain analyze")
    parser.add_argument("--options", type=json.loads, default={}, help='JSON, e.g. {"attribution": {"steps": 50}}')
    parser.add_argument("--keep-features", type=Path, help="folder for the test features of every stage")
    parser.add_argument("--watch-memory", action="store_true")
    parser.add_argument("--count-images", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    probes: list[Any] = options.probes.split(",")
    probes = [
        PROBES.create(name, options=options.options[name]) if name in options.options else name for name in probes
    ]
    if options.keep_features:
        probes.append(KeptFeatures(options.keep_features))
    limit = {"mem_limit": options.mem_limit} if options.mem_limit else {}
    phases, count, before = Phases(), ImageCount(), memory("VmHWM")
    if options.watch_memory:
        made = [PROBES.create(probe) if isinstance(probe, str) else probe for probe in probes]
        probes = [Watched(probe, phases) for probe in made]
        phases.__enter__()
    if options.count_images:
        register_module_forward_pre_hook(count)

    started = time.perf_counter()
    table = lw.analyze(options.run_dir, probes, max_samples=options.max_samples, quiet=True, **limit)
    seconds = time.perf_counter() - started

    if options.watch_memory:
        phases.__exit__()
    failures = TableInfo.of(table).failures
    if failures:
        raise SystemExit(f"failed: {failures}")
    summary = lw.Run.open(options.run_dir).read_json("analysis/analysis.json")
    found = {
        "seconds": seconds,
        "probe_seconds": summary["probe_seconds"],
        "samples": summary["samples"],
        "rows": len(table),
        "peak_bytes": memory("VmHWM"),
        "bytes_after_imports": before,
        "peak_bytes_by_phase": phases.peaks,
        "images_through_network": count.images if options.count_images else None,
    }
    options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
