"""A run whose maker chose names that terminals, pages and shells would obey: shown as text everywhere."""

import json
import re
import shlex
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import plotly.io
import pytest
from run_factory import STAGES, make_run
from streamlit.testing.v1 import AppTest

from lwexplain.explorer.server import SCRIPT
from lwexplain.results import read_analysis, write_analysis
from lwexplain.run import Run
from lwexplain.views.report import render_report
from tests.test_cli import lwexplain

NAMES = [
    "a\x1b]0;owned\x07\x1b[2J",  # title and cleared screen
    "b\x1b]52;c;cm0gLXJmIH4=\x07",  # clipboard
    "c\nrecommendation: stop_here - forged",  # a line of its own
    "![d](http://example.org/d.png) http://example.org <img src='http://example.org/d' onerror=alert(1)>",
    "e\u202egnp\u2066.f [red]e[/red] [link=http://example.org]e[/link] :red[e] $e$",
    "f\x9b2J\udcff\0</script><script>alert(1)</script><a href='http://example.org'>f</a>",
]
FOLDERS = ["a b", "$(touch owned)", "-rf", "c\x1b[31m", "![d](e)", "'; touch owned; '", "f\ng", "\u202eh"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run with such names as stages, classes, probes, notes, failures, in the log and in the manifest."""
    names = dict(zip(STAGES, (name.replace("\udcff", "") for name in NAMES), strict=True))
    run = make_run(tmp_path_factory.mktemp("hostile") / "run", classes=[*names.values(), *"6789"], note=names["stem"])
    found = read_analysis(run)
    attrs = found.metrics.attrs | {
        "stages": list(names.values()),
        "strategy": names["block3"],
        "failures": [{"probe": name, "stage": name, "error": name} for name in names.values()],
    }
    attrs["patterns"] = json.loads(json.dumps(attrs["patterns"]))
    for pattern in attrs["patterns"].values():
        pattern["stages"] = [names[stage] for stage in pattern["stages"]]
    metrics = found.metrics.replace({"stage": names})
    metrics.loc[metrics["metric"] == "gdv", "probe"] = names["stem"]
    metrics.attrs = attrs
    found.metrics, found.predictions = metrics, found.predictions.replace({"stage": names})
    found.embeddings = {method: frame.replace({"stage": names}) for method, frame in found.embeddings.items()}
    found.attributions = {
        method: replace(item, stages=list(names.values()), notes=list(names.values()))
        for method, item in found.attributions.items()
    }
    write_analysis(run, found)
    events = [event | {"stage": names[event["stage"]]} for event in run.read_events()]
    run.events_path.write_text("".join(json.dumps(event) + "\n" for event in events))
    run.update(progress=names["stem"], stopped=names["block1"], model=names["block2"])
    return run.path


def assert_harmless(text):
    """Lines of visible characters, none of them written by the maker of the run."""
    assert {unicodedata.category(character) for character in text.replace("\n", "")}.isdisjoint({"Cc", "Cf", "Cs"})
    assert not any(line.startswith("recommendation: stop_here - forged") for line in text.splitlines())


@pytest.mark.parametrize("command", ["recommend", "compare", "report"])
def test_commands_print_names_as_visible_text(hostile, command):
    done = lwexplain(command, hostile, *([hostile] if command == "compare" else []), check=0)
    assert_harmless(done.stdout + done.stderr)


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_of_such_a_name_is_refused_in_a_visible_line(tmp_path, name):
    run = make_run(tmp_path / "run")
    table = pd.read_parquet(run.metrics_path)
    table.loc[table["metric"] == "gdv", "metric"] = name.replace("\udcff", "")
    table.to_parquet(run.metrics_path)
    done = lwexplain("recommend", run.path, check=2)
    assert_harmless(done.stderr)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", NAMES)
def test_error_lines_print_names_as_visible_text(hostile, tmp_path, name):
    config = tmp_path / "c.yaml"
    typed = name.replace("\0", "")
    for arguments in (
        ["export", hostile, "--depth", typed, "--out", tmp_path / "n.pt2"],
        ["analyze", hostile, "--probes", typed],
        ["train", config, f"model.options={json.dumps({typed: 1})}"],
        ["train", config, f"training.{typed}=1"],
        ["train", config, f"data.name={typed}"],
        ["train", tmp_path / typed.replace("/", ":")],
        ["recommend", hostile, "--objective", typed],
        ["recommend", hostile, f"--{typed}"],
        ["list", typed],
        [typed],
    ):
        config.write_text("training: {epochs: 1}")
        done = lwexplain(*arguments, check=2)
        assert_harmless(done.stdout + done.stderr)
        assert 1 <= len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("name", FOLDERS)
def test_commands_to_copy_reach_the_folder_that_is_meant(tmp_path, name, monkeypatch):
    make_run(tmp_path / name, status="training", analyzed=False)
    monkeypatch.chdir(tmp_path)
    resume = Run.open(Path(name)).resume_command
    assert_harmless(resume)
    done = lwexplain("recommend", f"./{name}", check=2)
    assert_harmless(done.stderr)
    if name.isprintable():
        words = shlex.split(resume)
        assert words[:2] + words[3:4] + words[5:] == ["lwexplain", "train", "--run-dir", "--resume"]
        assert [Path(words[2]), Path(words[4])] == [Path(name, "config.yaml"), Path(name)]
        assert not words[2].startswith("-")


class Addresses(HTMLParser):
    """What a browser would load or run of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.scripts = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._script = tag == "script"
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data") and not (value or "").startswith(("data:image/png", "#")):
                self.found.append(value or "")

    def handle_data(self, data):
        if self._script and data.lstrip().startswith('{"data"'):
            self.scripts.append(data)
        self._script = False


def test_the_report_shows_names_as_visible_text(hostile):
    page = render_report(Run.open(hostile))
    parsed = Addresses(page)
    assert parsed.found == []
    assert len(parsed.scripts) >= 8
    assert "\x1b" not in page
    assert "\u202e" not in page
    for script in parsed.scripts:
        assert not re.search(r"<(a|img|script)\b", json.dumps(json.loads(script), ensure_ascii=False))


@pytest.mark.parametrize("page", ["overview", "embeddings", "attributions", "compare"])
def test_pages_show_names_as_visible_text(hostile, page, monkeypatch):
    monkeypatch.setenv("LWEXPLAIN_RUNS", str(hostile.parent))
    app = AppTest.from_file(str(SCRIPT), default_timeout=60)
    app.switch_page(f"{page}.py").run()
    assert not app.exception
    parts = [app.title, app.subheader, app.markdown, app.caption, app.info, app.warning, app.error]
    said = [element.value for part in parts for element in part]
    said += [option for part in (app.select_slider, app.radio) for element in part for option in element.options]
    assert any("example" in text for text in said) or page == "attributions"  # those that are valid give no reasons
    for text in said:
        assert not re.search(r"(?<!\\)[!$<]|(?<!\\)\[", text), text
        assert not re.search(r"https?://|www\.", text.replace("\\", ""))
        assert_harmless(text.replace("\u2060", ""))
    for figure in app.get("plotly_chart"):
        text = json.dumps(plotly.io.from_json(figure.proto.spec).to_dict(), default=str)
        assert not re.search(r"<(a|img|script)\b", text)
    for element in app.dataframe:
        assert isinstance(element.value, pd.DataFrame)
        assert_harmless(element.value.to_csv())
