"""The whole way, as a new user goes it: `lwexplain demo`, then the explorer on what it left."""

import json
import re
import subprocess
import sys

import pytest

from lwexplain.advice.recommend import VERDICTS
from lwexplain.explorer.server import SCRIPT
from lwexplain.probes.attribution import DEFAULT_METHODS
from lwexplain.results import read_analysis
from lwexplain.run import Run

NAMES = ["digits_bp", "digits_greedy"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "lwexplain", "demo", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


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
def test_the_explorer_shows_the_demo(demo, page, name, monkeypatch):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("LWEXPLAIN_RUNS", str(demo[0]))
    app = AppTest.from_file(str(SCRIPT), default_timeout=60).run()
    app.selectbox(key="run_name").select(name).run()
    app.switch_page(f"{page}.py").run()
    assert not app.exception
    assert not app.error
