"""An adopted run from a stranger is data: whatever it names, nothing of it is imported or written elsewhere."""

import json
import shutil
import sys

import pytest
import yaml
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

import lwexplain as lw
from lwexplain.cli import app
from lwexplain.explorer.server import SCRIPT

MODULE = "lwexplain_stranger"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that would write a file when somebody imported it, first on the path and in the current folder."""
    folder = tmp_path / "trap"
    folder.mkdir()
    sign = tmp_path / "imported"
    code = f"open({str(sign)!r}, 'w').write('imported')\ndef factory(*a, **k):\n    raise SystemExit(7)\n"
    (folder / f"{MODULE}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    yield sign
    sys.modules.pop(MODULE, None)


@pytest.fixture
def hostile(adopted_and_analyzed, out):
    """An adopted and analyzed run whose manifest and configuration name that module wherever something is named."""
    shutil.copytree(adopted_and_analyzed, out)
    spec = f"{MODULE}:factory"
    manifest = json.loads((out / "run.json").read_text())
    manifest |= {"model": spec, "factory": spec, "network": {"model": spec, "module": MODULE}}
    manifest["adoption"] |= {"model": spec, "factory": spec, "module": MODULE, "model_args": {"x": 1}}
    manifest["data"]["name"] = spec
    (out / "run.json").write_text(json.dumps(manifest))
    config = yaml.safe_load((out / "config.yaml").read_text())
    config["model"] = {"name": spec, "options": {"arch": MODULE}}
    config["data"] = {"name": spec}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    return out


COMMANDS = [
    ["analyze"],
    ["analyze", "--probes", "attribution"],
    ["analyze", "--probes", "ncm", "--pooling", "max", "--replace"],
    ["recommend"],
    ["recommend", "--json", "--rules"],
    ["report"],
    ["export", "--depth", "1", "--out", "short.pt2"],
    ["compare"],
    ["compare", "--similarity"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_imports_what_a_run_names(hostile, trap, command, monkeypatch):
    monkeypatch.setattr("lwexplain.analysis.analyze_run.default_probes", lambda: ["head", "linear", "attribution"])
    name, *options = command
    folders = [str(hostile)] * (2 if name == "compare" else 1)
    result = CliRunner().invoke(app, [name, *folders, *options])
    assert result.exception is None or isinstance(result.exception, (lw.LwexplainError, SystemExit)), result.exception
    assert not trap.exists()
    assert MODULE not in sys.modules


@pytest.mark.usefixtures("no_search_for_components")
@pytest.mark.parametrize("page", ["overview", "embeddings", "attributions", "compare"])
def test_no_page_of_the_explorer_imports_what_a_run_names(hostile, trap, monkeypatch, page):
    monkeypatch.setenv("LWEXPLAIN_RUNS", str(hostile.parent))
    opened = AppTest.from_file(str(SCRIPT), default_timeout=60)
    opened.switch_page(f"{page}.py").run()
    assert not opened.exception
    assert not trap.exists()
    assert MODULE not in sys.modules


def test_training_does_not_go_on_with_an_adopted_run(hostile, trap):
    with pytest.raises(lw.LwexplainError):
        lw.train(hostile / "config.yaml", run_dir=hostile, resume=True)
    assert not trap.exists()


def test_its_files_are_checked_before_they_are_read(hostile):
    manifest = json.loads((hostile / "run.json").read_text())
    for changes in (
        {"data": manifest["data"] | {"sizes": {"train": 10**17, "val": 10**17}}},
        {"data": manifest["data"] | {"classes": ["one"]}},
        {"data": manifest["data"] | {"shape": [3, 9, 9]}},
        {"data": manifest["data"] | {"mean": ["a"]}},
        {"stages": ["../../outside"]},
        {"adoption": {"notes": [1]}},
        {"adoption": []},
    ):
        (hostile / "run.json").write_text(json.dumps(manifest | changes))
        with pytest.raises(lw.LwexplainError):
            lw.analyze(hostile, ["ncm"], quiet=True)
