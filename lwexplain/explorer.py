"""The explorer's server: the settings it runs under and the command that starts it; the pages lie in ``apps/``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lwexplain.errors import ConfigError, RunError

SETTINGS: dict[str, str | int | bool] = {
    "server.address": "127.0.0.1",
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": False,
    "server.maxUploadSize": 1,
    "browser.gatherUsageStats": False,
    "browser.serverAddress": "127.0.0.1",
    "theme.base": "light",
    "theme.primaryColor": "#3B5BDB",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
}
"""Streamlit's settings: only this machine is answered, nothing is reported to anybody, no file is taken in.

``apps/.streamlit/config.toml`` says the same to whoever starts the script by ``streamlit run``; it lies beside the
script, where Streamlit finds it from any folder.
"""


def script() -> Path:
    """The script of the explorer; raises ConfigError where this installation has none."""
    path = Path(__file__).resolve().parents[1] / "apps" / "explorer.py"
    if not path.is_file():
        raise ConfigError("this installation of lwexplain has no explorer; start it from a checkout of the repository")
    return path


def command(folders: Sequence[Path], port: int | None = None) -> list[str]:
    """The command line of a server that shows the runs below ``folders``, with every setting named.

    Named on the command line they hold against Streamlit's files and variables of the environment.
    """
    settings = SETTINGS | ({} if port is None else {"server.port": port})
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]
    places = [str(folder.absolute()) for folder in folders]
    return [sys.executable, "-m", "streamlit", "run", str(script()), *flags, "--", *places]


def explore(folders: Sequence[Path], port: int | None = None) -> NoReturn:
    """Become the explorer's server, which shows the runs below ``folders`` and nothing else.

    Raises RunError for a folder that is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"no folder {folder}; make runs first, for example with: lwexplain demo")
    line = command(folders, port)
    os.execv(line[0], line)
