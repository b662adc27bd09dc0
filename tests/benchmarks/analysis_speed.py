"""How fast a network is analyzed: against the scripts people write for it, and all measures of 10,000 samples.

    python tests/benchmarks/analysis_speed.py own_script     # results/analysis_speed.json, some 10 minutes
    python tests/benchmarks/analysis_speed.py all_measures   # results/analysis_all_measures.json, some minutes
    python tests/benchmarks/analysis_speed.py prepare        # only train the network that own_script.py reads

own_script: a ResNet-18 of full width and 5,000 + 2,000 images of Fashion-MNIST. The script a person writes
(own_script.py) and ``lwexplain.analyze`` take turns, each in a fresh process with the same number of threads, on the
same 7,000 images: the person fits on the 5,000; lwexplain fits on 4,000 of them and chooses C and k on the other 1,000.
Both test their probes, measure indices and make UMAP layouts on the 2,000, and explain 12 images, the person with
--ig-steps steps of integrated gradients, lwexplain as the options of its probe (--attribution) say. All seconds of
lwexplain count: imports, reading of images and weights, costs of every depth, writing of results.

all_measures: a ResNet-18 of width 16, every probe but UMAP and attributions on 10,000 samples of each split, then the
same analysis once more in another process, which must read what is there instead of running the network.

Networks are trained once into --work and kept there; --tiny makes all of it small, to try the scripts.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from analysis_runs import (
    analyze_by_command,
    analyze_in_own_process,
    in_own_process,
    narrow_run,
    prepare,
    unanalyzed_copy,
)
from result_file import write_result
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score, silhouette_score

from lwexplain.probes.engine import built_in_probes
from lwexplain.results import read_metrics
from lwexplain.run import Run
from lwexplain.table import TableInfo

SKLEARN_INDICES = {
    "silhouette": silhouette_score,
    "davies_bouldin": davies_bouldin_score,
    "calinski_harabasz": calinski_harabasz_score,
}
PART_OF_PROBE = {
    "linear": "linear probe",
    "knn": "nearest neighbours",
    "separability": "indices",
    "pca": "umap",
    "umap": "umap",
    "attribution": "attribution",
}
PARTS = ("imports", "extraction", "linear probe", "nearest neighbours", "indices", "umap", "attribution", "other")
ATTRIBUTION = {"methods": ["integrated_gradients"], "checks": ["completeness"]}  # as many steps as completeness needs
LEFT_OUT = ("umap", "attribution")


# ---------------------------------------------------------------- against the script a person writes


def against_own_script(
    work: Path, sizes: tuple[int, int, int], epochs: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of both by part, and whether they find the same."""
    run = prepare(work, *sizes, epochs)
    seconds: dict[str, list[dict[str, float]]] = {"lwexplain": [], "own_script": []}
    threads = options.threads
    on_test = {name: {"split": "test"} for name in ("separability", "pca", "umap")}
    of_probes = json.dumps({"attribution": options.attribution, **on_test})
    for _ in range(options.runs):
        with unanalyzed_copy(run) as copy, tempfile.TemporaryDirectory() as kept:
            more = ["--options", of_probes, "--keep-features", kept]
            ours = analyze_in_own_process(copy, list(PART_OF_PROBE), max(sizes), threads, *more)
            found = our_stages(copy, Path(kept), np.load(work / "images.npz")["test_labels"])
        own = in_own_process("own_script.py", ["--work", str(work), "--ig-steps", str(options.ig_steps)], threads)
        seconds["lwexplain"].append(our_seconds(ours))
        seconds["own_script"].append(own_seconds(own))
        for name, entries in seconds.items():
            print(name, {part: round(value, 1) for part, value in entries[-1].items()}, flush=True)
    total = {name: statistics.median(entry["total"] for entry in entries) for name, entries in seconds.items()}
    return {
        "model": "resnet18",
        "width": 64,
        "images": dict(zip(("train", "val", "test"), sizes, strict=True)),
        "processes_have_threads": threads,
        "integrated_gradients": {"lwexplain": options.attribution, "own_script": {"steps": options.ig_steps}},
        "seconds": seconds,
        "ratio": total["own_script"] / total["lwexplain"],
        "agreement": agreement(found, own["stages"]),
        "stages": {stage: {"lwexplain": found[stage], "own_script": row} for stage, row in own["stages"].items()},
    }


def our_seconds(found: dict[str, Any]) -> dict[str, float]:
    """Wall seconds by part; extraction is what no probe takes, hence also reading and writing of the run.

    A layout that is computed in a process beside the other probes takes, as a part, what the analysis waits for it.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    for probe, seconds in found["probe_seconds"].items():
        parts[PART_OF_PROBE.get(probe, "other")] += seconds
    parts["imports"] = found["wall_seconds"] - found["seconds"]
    parts["extraction"] = found["seconds"] - sum(found["probe_seconds"].values())
    return {**parts, "total": found["wall_seconds"]}


def own_seconds(found: dict[str, Any]) -> dict[str, float]:
    """Wall seconds by part up to where its clock stopped."""
    parts = dict.fromkeys(PARTS, 0.0) | found["part_seconds"]
    parts["imports"] = found["wall_seconds"] - found["script_seconds"]
    parts["other"] = found["seconds"] - sum(found["part_seconds"].values())
    return {**parts, "total": parts["imports"] + found["seconds"]}


def our_stages(run: Run, features: Path, labels: np.ndarray) -> dict[str, dict[str, Any]]:
    """What lwexplain found of each stage, and scikit-learn's indices of the same features as ``sklearn``."""
    table = read_metrics(run)
    table = table[table["class"].isna()]
    wanted = [("linear_probe_accuracy", "test"), ("knn_accuracy", "test"), ("trustworthiness", "test")]
    wanted += [(index, "test") for index in SKLEARN_INDICES]
    rows: dict[str, dict[str, Any]] = {}
    for stage in TableInfo.of(table).stages:
        mine = table[table["stage"] == stage].set_index(["metric", "split"])["value"]
        rows[stage] = {metric: float(mine[metric, split]) for metric, split in wanted}
        x = np.load(features / f"{stage}.npy").astype(np.float64)
        rows[stage]["sklearn"] = {name: float(index(x, labels)) for name, index in SKLEARN_INDICES.items()}
    return rows


def agreement(ours: dict[str, dict[str, Any]], own: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Differences, the worst over the stages.

    Accuracies in points of test accuracy, ours minus theirs, of which the least counts; indices as shares of their
    value, on the same features (scikit-learn on those that lwexplain captured), and on those that each captured for
    itself, which also differ by the precision of the forward pass.
    """

    def apart(first: float, second: float) -> float:
        return abs(first - second) / max(abs(first), abs(second))

    points = [100 * (ours[stage]["linear_probe_accuracy"] - row["linear_probe_accuracy"]) for stage, row in own.items()]
    kept = [ours[stage]["trustworthiness"] - row["trustworthiness"] for stage, row in own.items()]
    return {
        "linear_probe_points": {"least": min(points), "mean": statistics.mean(points), "most": max(points)},
        "indices_on_same_features": {
            index: max(apart(row[index], row["sklearn"][index]) for row in ours.values()) for index in SKLEARN_INDICES
        },
        "indices_on_own_features": {
            index: max(apart(ours[stage][index], row[index]) for stage, row in own.items()) for index in SKLEARN_INDICES
        },
        "trustworthiness": {"least": min(kept), "mean": statistics.mean(kept), "most": max(kept)},
    }


# ---------------------------------------------------------------- all measures of 10,000 samples


def all_measures(run: Run, samples: int, runs: int, threads: int) -> dict[str, Any]:
    """Seconds of a first analysis and of the same one again, each in a fresh process.

    The second one is the command ``lwexplain analyze``; a third one counts the images that enter the network. So does a
    first one of another copy, with a single probe, to show that the count works.
    """
    probes = [name for name in built_in_probes() if name not in LEFT_OUT]
    found = []
    for _ in range(runs):
        with unanalyzed_copy(run) as copy:
            first = analyze_in_own_process(copy, probes, samples, threads)
            before = feature_files(copy)
            again_seconds = analyze_by_command(copy, probes, samples, threads)
            again = analyze_in_own_process(copy, probes, samples, threads, "--count-images")
            same = feature_files(copy) == before
        with unanalyzed_copy(run) as copy:
            counted = analyze_in_own_process(copy, probes[:1], samples, threads, "--count-images")
        if counted["images_through_network"] < sum(counted["samples"].values()):
            raise SystemExit("a first analysis ran the network on fewer images than it has samples: the count is wrong")
        found.append(
            {
                "seconds": first["wall_seconds"],
                "seconds_without_imports": first["seconds"],
                "probe_seconds": first["probe_seconds"],
                "peak_bytes": first["peak_bytes"],
                "rows": first["rows"],
                "images_through_network": counted["images_through_network"],
                "again_seconds": again_seconds,
                "again_seconds_without_imports": again["seconds"],
                "again_images_through_network": again["images_through_network"],
                "again_rows": again["rows"],
                "feature_files_untouched": same,
            }
        )
        print({name: value for name, value in found[-1].items() if not isinstance(value, dict)}, flush=True)
    return {
        "model": "resnet18",
        "width": 16,
        "probes": probes,
        "samples": first["samples"],
        "processes_have_threads": threads,
        "median_seconds": statistics.median(entry["seconds"] for entry in found),
        "median_again_seconds": statistics.median(entry["again_seconds"] for entry in found),
        "runs": found,
    }


def feature_files(run: Run) -> dict[str, int]:
    """When each array of the feature store was written, in nanoseconds."""
    files = sorted((run.analysis / "features").rglob("*.npy"))
    if not files:
        raise SystemExit(f"{run.analysis} holds no features")
    return {str(path.relative_to(run.analysis)): path.stat().st_mtime_ns for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["own_script", "all_measures", "prepare"])
    parser.add_argument("--work", type=Path, help="folder for networks (default: in runs/)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ig-steps", type=int, default=50, help="steps of integrated gradients of the person's script")
    parser.add_argument("--attribution", type=json.loads, default=ATTRIBUTION, help="options of our probe, JSON")
    parser.add_argument("--tiny", action="store_true", help="few images, and no result file")
    options = parser.parse_args()
    tiny = "_tiny" if options.tiny else ""
    if options.what == "all_measures":
        run = narrow_run("train", options.work, tiny=options.tiny)
        content = all_measures(run, 300 if tiny else 10_000, options.runs, options.threads)
        name = "analysis_all_measures"
    else:
        work = options.work or Path(f"runs/analysis_speed{tiny}")
        sizes, epochs = ((160, 40, 100), 1) if options.tiny else ((4_000, 1_000, 2_000), 3)
        if options.what == "prepare":
            prepare(work, *sizes, epochs)
            return
        content = against_own_script(work, sizes, epochs, options)
        name = "analysis_speed"
        print(f"ratio {content['ratio']:.2f}, {content['agreement']}")
    if not options.tiny:
        print(write_result(name, content))


if __name__ == "__main__":
    main()
