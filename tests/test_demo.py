"""The whole way, as a new user goes it: the wheel installed, `lwexplain demo`, then the explorer on what it left."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from lwexplain.advice.recommend import VERDICTS
from lwexplain.explorer.server import SCRIPT
from lwexplain.probes.attribution import DEFAULT_METHODS
from lwexplain.results import read_analysis
from lwexplain.run import Run
from tests.app.serving import browser_page, free_port, served
from tests.installation import build_wheel, files_of, install_wheel, outside_environment

NAMES = ["digits_bp", "digits_greedy"]
PACKAGE = Path(__file__).parent.parent / "lwexplain"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory):
    """The programs of an environment into which the wheel was installed."""
    return install_wheel(wheel, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def demo(programs, tmp_path_factory):
    """The folder and the output of the demonstration, run by the installed package."""
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [programs / "lwexplain", "demo", "--out", out],
        capture_output=True, text=True, check=False, timeout=1800, cwd=out, env=outside_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_wheel_holds_every_file_of_the_package(wheel):
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(PACKAGE.parent).as_posix() for path in files} <= files_of(wheel)


def test_outside_of_the_checkout_the_installed_package_is_used(programs, tmp_path):
    code = "import lwexplain, lwexplain.explorer.app as app; print(lwexplain.__file__, app.__file__, sep='\\n')"
    done = subprocess.run(
        [programs / "python", "-c", code],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=outside_environment(),
    )  # fmt: skip
    for line in done.stdout.splitlines():
        assert Path(line).is_relative_to(programs.parent)


@pytest.mark.slow
def test_the_demo_prints_tables_recommendations_and_reports(demo):
    out, text = demo
    assert len(re.findall(r"^ +9  layer4\.1 ", text, re.MULTILINE)) == 2, "a row a depth for both runs"
    assert len(re.findall(r"^recommendation: (\w+) - ", text, re.MULTILINE)) == 2
    for name in NAMES:
        assert f"report: {out / name / 'report.html'}" in text
        assert (out / name / "report.html").stat().st_size < 10_000_000


@pytest.mark.slow
def test_the_demo_really_learned_the_digits(demo):
    for name in NAMES:
        table = read_analysis(Run.open(demo[0] / name)).metrics
        rows = table[(table["metric"] == "head_accuracy") & (table["split"] == "test") & (table["depth"] == 9)]
        assert rows["value"].iloc[0] > 0.95


@pytest.mark.slow
def test_no_probe_failed_and_every_kind_of_result_is_there(demo):
    for name in NAMES:
        result = read_analysis(Run.open(demo[0] / name))
        assert result.metrics.attrs["failures"] == []
        assert set(result.embeddings) == {"umap", "pca"}
        assert set(result.attributions) == set(DEFAULT_METHODS)
        assert set(result.predictions["source"]) == {"head", "linear_probe"}


@pytest.mark.slow
def test_each_recommendation_is_justified(demo):
    for name in NAMES:
        advice = json.loads((demo[0] / name / "analysis/recommendation.json").read_text())
        assert advice["verdict"] in VERDICTS
        assert 1 <= advice["depth"] <= 9
        assert advice["depth_interval"][0] <= advice["depth"] <= advice["depth_interval"][1]
        assert str(advice["stage"]) in advice["reason"]
        assert 0 < advice["params_ratio"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("page", ["overview", "embeddings", "attributions", "compare"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("no_search_for_components")
def test_the_explorer_shows_the_demo(demo, page, name, monkeypatch):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("LWEXPLAIN_RUNS", str(demo[0]))
    app = AppTest.from_file(str(SCRIPT), default_timeout=60)
    app.query_params["run"] = name
    app.switch_page(f"{page}.py").run()
    assert app.selectbox(key="run_name").value == name
    assert not app.exception
    assert not app.error


@pytest.mark.slow
@pytest.mark.browser
def test_the_installed_explorer_shows_the_demo_in_a_browser(demo, programs, tmp_path):
    out, _ = demo
    advice = json.loads((out / "digits_bp" / "analysis" / "recommendation.json").read_text())
    port = free_port()
    line = [programs / "lwexplain", "explore", out, "--port", str(port)]
    with served(line, port, tmp_path, PYTHONPATH=""), browser_page() as page:
        assert page.goto(f"http://127.0.0.1:{port}/?run=digits_bp").status == 200
        page.get_by_role("heading", name=f"{advice['stage']} (depth {advice['depth']} of 9)").wait_for()
        page.locator(".js-plotly-plot .star, .js-plotly-plot .point").first.wait_for()
        assert page.locator("[data-testid=stException]").count() == 0
