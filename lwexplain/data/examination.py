"""The facts of all files of a data set: from the cache where a file has not changed, else examined anew."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lwexplain.data.file_cache import FactsCache, stamp_of
from lwexplain.data.file_facts import FileFacts, examine_file

FEW = 64
"""Files for which no pool of threads pays."""


def examine_files(root: Path, paths: Sequence[str]) -> list[FileFacts]:
    """The facts of files below ``root``: of those that have not changed since they were last examined, from the cache.

    Raises DataError that names the file which cannot be read.
    """
    cache = FactsCache(root)
    known = cache.read()
    stamps = [stamp_of(root / path) for path in paths]
    found = {path: known[path][1] for path, now in zip(paths, stamps, strict=True) if known.get(path, (0,))[0] == now}
    new = [path for path in paths if path not in found]
    if new:
        workers = min(8, os.cpu_count() or 1) if len(new) > FEW else 1
        with ThreadPoolExecutor(workers) as pool:
            try:
                found.update(zip(new, pool.map(lambda path: examine_file(root / path), new), strict=True))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        fresh = set(new)
        cache.write({path: (now, found[path]) for path, now in zip(paths, stamps, strict=True) if path in fresh})
    return [found[path] for path in paths]
