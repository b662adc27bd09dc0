"""Every classifier of torchvision, and many of timm and transformers, through stages, cut, costs and export:
results/zoo_survey.json.

    python tests/benchmarks/zoo_survey.py                       # those that are not in the file yet; an hour
    python tests/benchmarks/zoo_survey.py --only timm/swin      # those whose library/name begins so, anew
    python tests/benchmarks/zoo_survey.py --failed              # those that have failed, anew

A network has a process of its own, which ends when it takes too long. The file is written after each, so that a survey
that was broken off goes on where it stopped.
"""

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

from result_file import RESULTS, write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from surveyed_networks import Surveyed, surveyed_networks  # type: ignore[import-not-found]

NAME = "zoo_survey"
LONGEST = 600.0
"""Seconds for one network."""


def survey_in_own_process(network: Surveyed) -> dict[str, Any]:
    """A row of the survey; a process that dies or takes too long is its failure."""
    about = {"library": network.library, "name": network.name, "family": network.family, "image": network.size}
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        found = pool.submit(_survey, network).result(timeout=LONGEST)
    except TooLong:
        found = {"failure": f"took longer than {LONGEST:.0f} s"}
    except BrokenProcessPool:
        found = {"failure": "its process was killed, for want of memory most likely"}
    finally:
        for process in list(getattr(pool, "_processes", {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
    return about | found


def _survey(network: Surveyed) -> dict[str, Any]:
    import warnings

    import torch
    from network_survey import survey  # type: ignore[import-not-found]

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = asdict(survey(network))
    return found | {"seconds": round(found["seconds"], 1)}


def networks_in_file() -> dict[str, dict[str, Any]]:
    """Rows of the result file by library/name."""
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["networks"] if path.exists() else []
    return {f"{row['library']}/{row['name']}": row for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="beginning of library/name")
    parser.add_argument("--failed", action="store_true", help="only those that have failed")
    options = parser.parse_args()
    found = networks_in_file()
    networks = surveyed_networks()
    for network in networks:
        before = found.get(network.key)
        failed = before is not None and before["failure"] is not None
        asked = network.key.startswith(options.only) and (failed or not options.failed)
        if not asked or (before is not None and not options.only and not options.failed):
            continue
        row = survey_in_own_process(network)
        found[network.key] = row
        rows = [found[network.key] for network in networks if network.key in found]
        write_result(NAME, {"networks": rows})
        print(f"{network.key}: {row['failure'] or row['way']} ({row.get('seconds', LONGEST)} s)", flush=True)


if __name__ == "__main__":
    main()
