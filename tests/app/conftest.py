"""Run directories for the tests of the explorer."""

import pytest
from run_factory import make_run


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory):
    """Two whole runs side by side; tests only read them."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "greedy", failures=[{"probe": "broken_probe", "stage": "block2", "error": "ValueError: no"}])
    make_run(folder / "bp", strategy="bp", accuracy=[0.40, 0.70, 0.88, 0.955, 0.97, 0.982], seed=1)
    return folder


@pytest.fixture(autouse=True)
def _no_search_for_components(no_search_for_components):
    """Every test here may open pages."""
