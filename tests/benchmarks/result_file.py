"""The result files of the benchmarks: figures with the machine, the versions and the date they were made on."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lwexplain.run.directory import describe_environment
from lwexplain.run.files import atomic_path

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, content: dict[str, Any], *, indent: int | None = 1) -> Path:
    """Write ``results/NAME.json``, on one line where ``indent`` is None; returns its path."""
    path = RESULTS / f"{name}.json"
    machine = {
        **{key: value for key, value in describe_environment().items() if key not in ("command", "platform")},
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({"machine": machine, **content}, indent=indent) + "\n", encoding="utf-8")
    return path


def _processor() -> str:
    if not os.path.exists("/proc/cpuinfo"):
        return platform.processor()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
