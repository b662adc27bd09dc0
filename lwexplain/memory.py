"""How much memory there is, how much an analysis may take, and how much the process holds already."""

import os
import re
from pathlib import Path

from lwexplain.errors import ConfigError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
DEFAULT_WORKING_BYTES = 512 * 2**20
LEAST_WORKING_BYTES = 64 * 2**20
HEADROOM = 1.5
"""Room below a limit over what probes may take of it; the rest is for what no probe counts: tables, the allocator,
workspaces of libraries."""


def parse_size(text: str) -> int:
    """``1.5GB``, ``800MiB`` or a plain number as bytes; raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?)B?\s*", text.upper())
    if match is None or match[2] not in UNITS or not 1 <= float(match[1]) * UNITS[match[2]] < 2**63:
        raise ConfigError(f"memory limit {text[:60]!r} is not a size; write it as 2GB or 800MiB")
    return int(float(match[1]) * UNITS[match[2]])


def working_bytes(limit: int | None) -> int:
    """Bytes that probes and batches may take for working arrays, so that the process stays below ``limit`` bytes.

    Raises ConfigError where the process leaves too little room below the limit.
    """
    if limit is None:
        return DEFAULT_WORKING_BYTES
    held = resident_bytes()
    room = int((limit - held) / HEADROOM)
    if room < LEAST_WORKING_BYTES:
        least = held + int(HEADROOM * LEAST_WORKING_BYTES)
        raise ConfigError(
            f"a memory limit of {_megabytes(limit)} is too small: the program and the images take "
            f"{_megabytes(held)} already; give at least {_megabytes(least)}"
        )
    return min(room, DEFAULT_WORKING_BYTES)


def resident_bytes() -> int:
    """Bytes of memory that this process holds now (its resident set; 0 where the system does not say)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    return 0


def available_memory() -> int:
    """Bytes of memory this process may still take: what the system has free, within its control group."""
    free = _read_meminfo()
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        free = min(free, max(0, limit - int((group / "memory.current").read_text())))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        pass
    return free


def _read_meminfo() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _megabytes(size: int) -> str:
    return f"{size / 10**6:,.0f} MB"
