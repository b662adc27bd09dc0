"""Every classifier of torchvision, and many of timm and transformers, through stages, cut, costs and export:
results/zoo_survey.json.

    python tests/benchmarks/zoo_survey.py                       # those that are not in the file yet; an hour
    python tests/benchmarks/zoo_survey.py --only timm/swin      # those whose library/name begins so, anew
    python tests/benchmarks/zoo_survey.py --failed              # those that have failed, anew

Networks are asked in a process of their own, which is ended where one takes too long, small ones first. The file is
written after each, so that a survey that was broken off goes on where it stopped.
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

from surveyed_networks import Surveyed, small_ones_first, surveyed_networks  # type: ignore[import-not-found]

NAME = "zoo_survey"
LONGEST = 600.0
"""Seconds for one network."""


class Worker:
    """A process that surveys one network after another; a new one takes over where it dies or takes too long."""

    def __init__(self) -> None:
        self.pool = self._new_pool()

    def row_of(self, network: Surveyed) -> dict[str, Any]:
        """A row of the survey; the end of the process is the failure of its network."""
        about = {"library": network.library, "name": network.name, "family": network.family, "image": network.size}
        try:
            return about | self.pool.submit(_survey, network).result(timeout=LONGEST)
        except TooLong:
            failure = f"took longer than {LONGEST:.0f} s"
        except BrokenProcessPool:
            failure = "its process was killed, for want of memory most likely"
        self.end()
        self.pool = self._new_pool()
        return about | {"failure": failure}

    def end(self) -> None:
        for process in list(getattr(self.pool, "_processes", {}).values()):
            process.terminate()
        self.pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _new_pool() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _survey(network: Surveyed) -> dict[str, Any]:
    import gc
    import warnings

    import torch
    from network_survey import survey  # type: ignore[import-not-found]

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = asdict(survey(network))
    gc.collect()
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
    worker = Worker()
    for network in small_ones_first():
        before = found.get(network.key)
        failed = before is not None and before["failure"] is not None
        asked = network.key.startswith(options.only) and (failed or not options.failed)
        if not asked or (before is not None and not options.only and not options.failed):
            continue
        row = worker.row_of(network)
        found[network.key] = row
        rows = [found[known.key] for known in surveyed_networks() if known.key in found]
        write_result(NAME, {"networks": rows})
        print(f"{network.key}: {row['failure'] or row['way']} ({row.get('seconds', LONGEST)} s)", flush=True)
    worker.end()


if __name__ == "__main__":
    main()
