"""The explorer's server: who is answered, what is reported to whom, and how it is started."""

import contextlib
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lwexplain.errors import ConfigError, RunError
from lwexplain.explorer.server import SETTINGS, command, explore
from tests.app.serving import free_port, served

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "apps" / "explorer.py"
LISTENING = "0A"
LOOPBACK = "0100007F"
LOOPBACK_6 = "0" * 24 + "01000000"


def listening_addresses(process):
    """Addresses (in hexadecimal, as the kernel writes them) and ports on which a process listens."""
    sockets = set()
    for handle in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(handle).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTENING and rest[5] in sockets:
                address, port = local.split(":")
                found.add((address, int(port, 16)))
    return found


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="the system does not list its sockets")
@pytest.mark.parametrize("way", ["the command", "streamlit run"])
def test_from_any_folder_only_this_machine_is_answered(tmp_path, way):
    port = free_port()
    (tmp_path / "runs").mkdir()
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text('[server]\naddress = "0.0.0.0"\n')
    line = [sys.executable, "-P", "-m", "lwexplain", "explore", "--port", str(port)]
    (tmp_path / "streamlit.py").write_text("raise SystemExit('code of the working directory ran')")
    if way == "streamlit run":
        line = [sys.executable, "-P", "-m", "streamlit", "run", str(SCRIPT), "--server.port", str(port)]
    with served(line, port, tmp_path, PYTHONPATH=str(REPOSITORY)) as process:
        assert {address for address, _ in listening_addresses(process)} <= {LOOPBACK, LOOPBACK_6}
        assert (LOOPBACK, port) in listening_addresses(process)


def test_the_settings_beside_the_script_are_those_of_the_command():
    sections = tomllib.loads((SCRIPT.parent / ".streamlit" / "config.toml").read_text())
    flat = {f"{section}.{name}": value for section, part in sections.items() for name, value in part.items()}
    assert flat == SETTINGS
    assert SETTINGS["server.address"] == "127.0.0.1"
    assert SETTINGS["browser.gatherUsageStats"] is False


def test_streamlit_knows_every_setting():
    from streamlit import config

    known = {section: config.get_options_for_section(section) for section in ("server", "browser", "theme", "client")}
    assert [name for name in SETTINGS if name.split(".")[1] not in known[name.split(".")[0]]] == []


def test_settings_and_folders_are_named_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = command([Path("runs"), Path("-odd")], 8123)
    assert {"--server.address=127.0.0.1", "--browser.gatherUsageStats=false", "--server.port=8123"} <= set(line)
    assert line[line.index("--") + 1 :] == [str(tmp_path / "runs"), str(tmp_path / "-odd")]


def test_nothing_is_imported_from_the_working_directory_unless_it_is_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "-P" in command([tmp_path])
    monkeypatch.chdir(REPOSITORY)
    assert "-P" not in command([tmp_path])


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(RunError, match=r"no folder .*absent; make runs first"):
        explore([tmp_path / "absent"])


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"cannot listen on port {port} \(Address already in use\); choose another"
        ):
            explore([tmp_path], port)


def test_a_missing_streamlit_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs Streamlit, which is not installed: pip install streamlit"):
        explore([tmp_path])


def test_no_module_of_the_explorer_loads_torch():
    code = """
import importlib, pkgutil, sys
import lwexplain.explorer
names = [found.name for found in pkgutil.walk_packages(lwexplain.explorer.__path__, "lwexplain.explorer.")]
for name in names:
    importlib.import_module(name)
print(len(names), sorted({"torch", "torchvision", "captum", "numba", "umap"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    count, loaded = done.stdout.split(maxsplit=1)
    assert int(count) >= 9
    assert loaded.strip() == "[]"
