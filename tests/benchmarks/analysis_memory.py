"""How the peak memory of an analysis grows with the number of samples: results/analysis_memory.json.

    python tests/benchmarks/analysis_memory.py                      # 5,000 and 50,000 samples
    python tests/benchmarks/analysis_memory.py --large-split val    # 50,000 samples of val: distances
    python tests/benchmarks/analysis_memory.py --mem-limit 1.5GB    # 50,000 samples once more under a limit

Fashion-MNIST and a ResNet-18 of width 16, every probe but UMAP and attributions, each analysis in a fresh process on a
run that has not been analyzed. Its peak is what Linux calls VmHWM: all resident memory, with interpreter, libraries and
the 70,000 images, which are in memory in every case. A thread samples the resident memory, so that the peak of each
phase is known as well; the phases may miss a peak of less than 10 ms, the peak of the process does not. With
``--large-split train``, the default, 50,000 samples are 50,000 of train and 10,000 of val and test each.
"""

import argparse
from pathlib import Path
from typing import Any

from analysis_runs import analyze_in_own_process, narrow_run, unanalyzed_copy
from result_file import write_result

from lwexplain.memory import parse_size
from lwexplain.probes.engine import built_in_probes
from lwexplain.run import Run

LEFT_OUT = ("umap", "attribution")


def measure(run: Run, samples: int, threads: int, *more: str) -> dict[str, Any]:
    """Peak memory in bytes, as a whole and by phase, and seconds of an analysis of at most ``samples`` a split."""
    probes = [name for name in built_in_probes() if name not in LEFT_OUT]
    with unanalyzed_copy(run) as copy:
        found = analyze_in_own_process(copy, probes, samples, threads, "--watch-memory", *more)
    kept = ("samples", "peak_bytes", "bytes_after_imports", "peak_bytes_by_phase", "seconds", "wall_seconds")
    highest = max(found["peak_bytes_by_phase"], key=found["peak_bytes_by_phase"].get)
    print(f"{samples:7,} samples {found['peak_bytes'] / 1e6:8,.0f} MB, highest in {highest}", flush=True)
    for phase, peak in found["peak_bytes_by_phase"].items():
        print(f"        {phase:20} {peak / 1e6:8,.0f} MB", flush=True)
    return {name: found[name] for name in kept} | {"highest_phase": highest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large-split", choices=["train", "val"], default="train")
    parser.add_argument("--mem-limit", help="such as 1.5GB")
    parser.add_argument("--work", type=Path, help="folder for the trained network (default: in runs/)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="width 8, 100 and 1,000 samples, and no result file")
    options = parser.parse_args()
    few, many = (100, 1_000) if options.tiny else (5_000, 50_000)
    run = narrow_run(options.large_split, options.work, tiny=options.tiny)
    found = {"few": measure(run, few, options.threads), "many": measure(run, many, options.threads)}
    content: dict[str, Any] = {
        "model": "resnet18",
        "width": 8 if options.tiny else 16,
        "large_split": options.large_split,
        "samples": {"few": few, "many": many},
        "processes_have_threads": options.threads,
        **found,
        "ratio": found["many"]["peak_bytes"] / found["few"]["peak_bytes"],
    }
    print(f"ratio {content['ratio']:.3f}")
    if options.mem_limit:
        limited = measure(run, many, options.threads, "--mem-limit", options.mem_limit)
        limit = parse_size(options.mem_limit)
        content["limited"] = limited | {"limit": options.mem_limit, "limit_bytes": limit}
        print(f"share of the limit: {limited['peak_bytes'] / limit:.3f}")
    if not options.tiny:
        suffix = "" if options.large_split == "train" else f"_{options.large_split}"
        print(write_result(f"analysis_memory{suffix}", content))


if __name__ == "__main__":
    main()
