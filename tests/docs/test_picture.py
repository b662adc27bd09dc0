"""The picture of the README shows the recommendation that it is drawn from."""

import importlib.util
import sys
from xml.etree import ElementTree

import pytest
from made_tables import table_of
from page_blocks import ROOT

import lwexplain as lw

VAL = [0.5, 0.88, 0.95, 0.952]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("readme_picture", ROOT / "tests" / "benchmarks" / "readme_picture.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data class looks for its own module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def advice():
    others = {("parameters", "none"): [10, 100, 1000, 100_000], ("flops", "none"): [10, 20, 30, 40]}
    return lw.recommend(table_of(VAL, others=others), tolerance=0.01)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_the_picture_names_the_stage_what_it_saves_and_every_depth(script, advice, name):
    root = ElementTree.fromstring(script.draw(advice, "A network & its images", script.PALETTES[name]))
    words = [element.text for element in root.iter() if element.text and element.text.strip()]
    assert f"Stop after {advice.stage}, stage {advice.depth} of 4" in words
    assert all(prospect.stage in words for prospect in advice.prospects)
    assert any(f"saves {100 * (1 - advice.params_ratio):.0f} % of the parameters" in text for text in words)
    assert f"{100 * advice.prospects[advice.depth - 1].expected_accuracy:.1f}" in words
    assert any(text.startswith("A network & its images") for text in words)


def test_a_depth_far_below_the_others_is_an_arrow_at_the_floor(script, advice):
    root = ElementTree.fromstring(script.draw(advice, "A network", script.PALETTES["light"]))
    arrows = root.findall("{http://www.w3.org/2000/svg}path")
    assert len(arrows) == 1  # the first stage alone, which reaches half of what the last one does
