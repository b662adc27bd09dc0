"""The package as a person gets it: its wheel, installed into an environment of its own outside the checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def build_wheel(folder):
    """The wheel of the checkout, built below ``folder`` from a copy, so that no leftover of another build is in it."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "lwexplain", source / "lwexplain", ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("lwexplain-*.whl")
    return wheel


def install_wheel(wheel, folder):
    """Install ``wheel`` into a new environment ``folder``; returns the folder of its programs.

    The environment also sees the dependencies that are installed here, but not the checkout: a path in a ``.pth`` file
    makes Python read the packages there and ignore the ``.pth`` files, by which the checkout is installed.
    """
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    _pip("--python", programs / "python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    places = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(places))
    return programs


def outside_environment():
    """The environment of a process that knows nothing of this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def files_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _pip(*arguments):
    line = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=outside_environment())
    assert done.returncode == 0, done.stderr
