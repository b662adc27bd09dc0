"""The explorer's server: the settings it runs under and the command that starts it."""

import importlib.util
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lwexplain.errors import ConfigError, RunError

SCRIPT = Path(__file__).resolve().with_name("app.py")
ADDRESS = "127.0.0.1"
SETTINGS: dict[str, str | int | bool] = {
    "server.address": ADDRESS,
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": False,
    "server.maxUploadSize": 1,
    "browser.gatherUsageStats": False,
    "browser.serverAddress": ADDRESS,
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

    Settings named on the command line override Streamlit's files and environment variables. With ``-P``, Python
    imports nothing from the working directory, which may be a run directory of a stranger; in a checkout, whose package
    may be used without being installed, it may import from there.
    """
    in_checkout = Path.cwd() == SCRIPT.parents[2]
    python = [sys.executable] if in_checkout else [sys.executable, "-P"]
    settings = SETTINGS | ({} if port is None else {"server.port": port})
    flags = [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()]
    places = [str(folder.absolute()) for folder in folders]
    return [*python, "-m", "streamlit", "run", str(SCRIPT), *flags, "--", *places]


def explore(folders: Sequence[Path], port: int | None = None) -> NoReturn:
    """Become the explorer's server, which shows the runs below ``folders`` and nothing else.

    Without a ``port`` it takes 8501, or the next one that is free.

    Raises:
        RunError: A folder is not there.
        ConfigError: The port is not free, or Streamlit is not installed.
    """
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"no folder {folder}; make runs first, for example with: lwexplain demo")
    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError("the explorer needs Streamlit, which is not installed: pip install streamlit")
    if port is not None:
        _check_port(port)
    line = command(folders, port)
    os.execv(line[0], line)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is no obstacle
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            raise ConfigError(
                f"the explorer cannot listen on port {port} ({error.strerror}); choose another --port, or leave the "
                "option out and it finds a free one"
            ) from error
