"""The explorer in a real browser: pages open, points are selected, their images appear."""

import sys
import urllib.parse
from pathlib import Path

import pytest

from tests.app.serving import browser_page, free_port, served

EXPLORER = Path(__file__).parents[2] / "apps" / "explorer.py"

ASKED: set[str | None] = set()
"""Every machine that the pages of this file asked for anything."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page():
    """An empty page of a headless Chromium."""
    with browser_page() as page:
        page.on("request", lambda request: ASKED.add(urllib.parse.urlsplit(request.url).hostname))
        yield page


@pytest.fixture(scope="module")
def address(runs_folder, tmp_path_factory):
    """The explorer, served on a free port of this machine only."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(EXPLORER), "--server.port", str(port), "--", runs_folder]
    with served(command, port, tmp_path_factory.mktemp("server")):
        yield f"http://127.0.0.1:{port}"


def _assert_no_traceback(page):
    assert page.locator("[data-testid=stException]").count() == 0
    assert "Traceback" not in page.inner_text("body")


def test_the_address_of_a_page_opens_it_on_a_fresh_server(page, address):
    page.goto(f"{address}/embeddings?run=greedy")
    page.get_by_role("heading", name="Embeddings").wait_for()
    page.get_by_role("textbox", name="Runs folder").wait_for()
    page.get_by_role("link", name="Compare").wait_for()
    _assert_no_traceback(page)


def test_from_the_overview_to_the_images_of_a_selection(page, address):
    page.goto(f"{address}/?run=greedy")
    page.get_by_role("heading", name="Stop early").wait_for()
    page.locator(".js-plotly-plot .star, .js-plotly-plot .point").first.wait_for()
    _assert_no_traceback(page)

    page.get_by_role("link", name="Embeddings").click()
    page.get_by_role("heading", name="Embeddings").wait_for()
    assert page.locator(".gallery img").count() == 0
    area = page.locator(".js-plotly-plot .nsewdrag").first
    area.wait_for()
    page.wait_for_timeout(500)  # the chart attaches its handlers after it is drawn
    shown = page.locator(".gallery img")
    for place in (0, 4):
        sample = _click_point(page, trace=place, point=place)
        page.locator(f".gallery img[alt^='sample {sample},']").wait_for()
        assert shown.count() == 1
        assert shown.first.evaluate("image => image.naturalWidth") > 0

    page.locator(".modebar-btn[data-title='Lasso Select']").first.click()
    _drag_lasso(page, area.bounding_box())
    shown.nth(2).wait_for()
    assert 3 <= shown.count() <= 64
    _assert_no_traceback(page)

    for name in ("Attributions", "Compare"):
        page.get_by_role("link", name=name).click()
        page.get_by_role("heading", name=name).first.wait_for()
        _assert_no_traceback(page)


def test_no_page_asks_another_machine_for_anything(page, address):
    for name in ("overview", "embeddings", "attributions", "compare"):
        page.goto(f"{address}/{'' if name == 'overview' else name}?run=bp")
        page.get_by_role("textbox", name="Runs folder").wait_for()
        page.wait_for_timeout(500)
    assert {host for host in ASKED if host} == {"127.0.0.1"}


def _click_point(page, trace, point):
    """Click a point of the chart as a hand does; returns its sample number."""
    x, y, sample = page.locator(".js-plotly-plot").first.evaluate(
        """(chart, [trace, point]) => {
            const {xaxis, yaxis} = chart._fullLayout, data = chart._fullData[trace];
            const corner = chart.getBoundingClientRect();
            return [
                corner.left + xaxis._offset + xaxis.d2p(data.x[point]),
                corner.top + yaxis._offset + yaxis.d2p(data.y[point]),
                [data.customdata[point]].flat()[0],
            ];
        }""",
        [trace, point],
    )
    page.mouse.move(x - 20, y - 20)
    page.mouse.move(x, y, steps=5)
    page.wait_for_timeout(200)  # a chart knows the point under the mouse a moment later
    page.mouse.click(x, y)
    return int(sample)


def _drag_lasso(page, box):
    """Draw around the right half of the plot."""
    assert box is not None
    left, right = box["x"] + 0.5 * box["width"], box["x"] + 0.98 * box["width"]
    top, bottom = box["y"] + 0.02 * box["height"], box["y"] + 0.98 * box["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=8)
    page.mouse.up()
