"""The explorer's server as a person starts it, and a browser that looks at it."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def served(line, port, folder, **environment):
    """A server started from ``folder`` by somebody without any settings of their own; gives its process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMLIT_", "LWEXPLAIN_"))}
    log = folder / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            line, cwd=folder, env=kept | {"HOME": str(folder)} | environment, stdout=file, stderr=file
        )
    try:
        for _ in range(1200):
            assert server.poll() is None, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health"):
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"no answer: {log.read_text()}")
        yield server.pid
    finally:
        server.terminate()
        server.wait(timeout=60)


@contextlib.contextmanager
def browser_page():
    """An empty page of a headless Chromium; skips the test where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()
