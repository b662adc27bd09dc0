"""Fixtures for all tests: one thread per process keeps timings and results the same on any machine."""

import os
import sys
import tempfile

os.environ["XDG_CACHE_HOME"] = (_cache := tempfile.TemporaryDirectory(prefix="lwexplain-tests-")).name
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("STREAMLIT_BROWSER_GATHER_USAGE_STATS", "false")

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # a busy machine is no fault of what is tested
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: at the end, no process waits for another one that has them still before it."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Files need not outlast a power cut here; tests of what happens when one cannot be kept replace ``fsync`` too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def main_module_stays():
    """Streamlit's test of a page leaves its script as ``__main__``, which processes that start later would run."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture
def site_of():
    """Make a site with features of ``shape``, after stages of shapes ``before`` and before stages ``following``."""
    from lwexplain.models.site import Site

    def make(shape, num_classes=10, *, following=(), before=(), image_shape=(1, 28, 28)):
        return Site(image_shape, (*before, tuple(shape), *following), len(before) + 1, num_classes)

    return make


@pytest.fixture(scope="session")
def no_search_for_components():
    """For tests of pages: Streamlit reads the metadata of every installed package each time an app is tested, for
    components in them. The explorer uses none, and that search takes longer than a page does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamlit.components.v2.manifest_scanner.scan_component_manifests", list)
        yield
