import subprocess
import sys
import time


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_neither_torch_nor_numba_nor_pandas():
    heavy = fresh("import lwexplain, sys; print([m for m in ('torch', 'numba', 'pandas', 'umap') if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_every_public_name_is_there():
    missing = fresh("import lwexplain as lw; print([n for n in lw.__all__ if not hasattr(lw, n)])")
    assert missing.strip() == "[]"


def test_help_is_quick():
    def seconds():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lwexplain", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.0
