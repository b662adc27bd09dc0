"""A monitored run in a real browser: the open page grows with it, and fits a telephone."""

import sys
from pathlib import Path

import pytest

from tests.app.monitored_run import add_looks, make_monitored_run
from tests.app.serving import browser_page, free_port, served

EXPLORER = Path(__file__).parents[2] / "apps" / "explorer.py"

pytestmark = pytest.mark.browser


def test_the_open_page_grows_with_the_run_and_fits_a_telephone(tmp_path):
    run = make_monitored_run(tmp_path / "runs" / "live", looks=2)
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(EXPLORER), "--server.port", str(port), "--"]
    with served([*command, str(tmp_path / "runs")], port, tmp_path), browser_page() as page:
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(f"http://127.0.0.1:{port}/?run=live")
        page.get_by_text("2 looks").wait_for()
        page.locator(".js-plotly-plot").nth(3).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        widest = (
            "Math.max(...[...document.querySelectorAll('.js-plotly-plot')].map(p => p.getBoundingClientRect().right))"
        )
        assert page.evaluate(widest) <= 390
        add_looks(run, [3])
        page.get_by_text("3 looks").wait_for()  # nobody touched the page
        page.get_by_text("Epoch 3:").wait_for()
        assert page.locator("[data-testid=stException]").count() == 0
