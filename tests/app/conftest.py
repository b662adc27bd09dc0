"""Run directories for the app's tests, and the app's folder on the path as `streamlit run` puts it."""

import sys
from pathlib import Path

import pytest
from run_factory import make_run

APPS = Path(__file__).parents[2] / "apps"
sys.path.insert(0, str(APPS))


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory):
    """Two whole runs side by side; tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "greedy", failures=[{"probe": "broken_probe", "stage": "block2", "error": "ValueError: no"}])
    make_run(folder / "bp", strategy="bp", accuracy=[0.40, 0.70, 0.88, 0.955, 0.97, 0.982], seed=1)
    return folder
