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


@pytest.fixture(scope="session", autouse=True)
def _no_search_for_components():
    """Streamlit reads the metadata of every installed package each time an app is tested, for components in them. The
    explorer uses none, and that search takes longer than a page does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)
        yield
