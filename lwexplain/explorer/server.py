"""The explorer's server: the settings it runs under and the command that starts it."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lwexplain.errors import RunError

SCRIPT = Path(__file__).resolve().with_name("app.py")

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

In a checkout, ``apps/.streamlit/config.toml`` says the same to whoever types ``streamlit run apps/explorer.py``; it
lies beside that script, where Streamlit finds it from any folder.
"""


def command(folders: Sequence[Path], port: int | None = None) -> list[str]:
    """The command line of a server that shows the runs below ``folders``, with every setting named.

    Named on the command line they hold against Streamlit's files and variables of the environment.
    """
    settings = SETTINGS | ({} if port is None else {"server.port": port})
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]
    places = [str(folder.absolute()) for folder in folders]
    return [sys.executable, "-m", "streamlit", "run", str(SCRIPT), *flags, "--", *places]


def explore(folders: Sequence[Path], port: int | None = None) -> NoReturn:
    """Become the explorer's server, which shows the runs below ``folders`` and nothing else.

    Raises RunError for a folder that is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"no folder {folder}; make runs first, for example with: lwexplain demo")
    line = command(folders, port)
    os.execv(line[0], line)
