"""A monitored run in the explorer: shown while it grows, on its page and as one among others."""

import json

from tests.app.monitored_run import add_looks, make_monitored_run
from tests.app.test_pages import said, visit


def test_the_overview_shows_what_the_monitor_saw(tmp_path):
    make_monitored_run(tmp_path / "live")
    app = visit(tmp_path, "overview", "live")
    text = said(app)
    assert not app.error
    assert "8 looks · 800 val images each · 3.1 % of the training's time · epoch 8" in text
    assert "the answer is there at layer" in text
    assert "lw.adopt(model, loaders" in text
    assert len(app.get("plotly_chart")) == 4
    app.radio(key="looks_metric").set_value("separability_index").run()
    assert not app.exception
    assert not app.error


def test_it_grows_with_the_run(tmp_path):
    run = make_monitored_run(tmp_path / "live", looks=0)
    assert "No look has been taken yet" in said(visit(tmp_path, "overview", "live"))
    add_looks(run, [1])
    text = said(visit(tmp_path, "overview", "live"))
    assert "1 looks" not in text
    assert "1 look ·" in text
    add_looks(run, [2, 3])
    run.update(progress="ended after epoch 3")
    text = said(visit(tmp_path, "overview", "live"))
    assert "3 looks" in text
    assert "ended after epoch 3" in text


def test_other_pages_say_where_it_is_shown(tmp_path):
    make_monitored_run(tmp_path / "live")
    for page in ("embeddings", "attributions"):
        app = visit(tmp_path, page, "live")
        assert "Overview shows it" in said(app)
        assert not app.error
    app = visit(tmp_path, "compare", "live", compared=["live"])
    assert "holds what lw.Monitor saw" in said(app)


def test_a_stage_that_could_not_be_measured_is_named(tmp_path):
    run = make_monitored_run(tmp_path / "live", looks=2)
    run.append_event(event="look", epoch=3, stage="stem", depth=1, reason="40 of 200 samples are NaN")
    assert "stem: 40 of 200 samples are NaN" in said(visit(tmp_path, "overview", "live"))


def test_a_damaged_or_hostile_run_is_told_and_shows_no_traceback(tmp_path):
    run = make_monitored_run(tmp_path / "live", stages=["<script>alert(1)</script>", "**bold** $x$"])
    app = visit(tmp_path, "overview", "live")
    assert not app.error
    assert not any(markdown.allow_html for markdown in app.markdown if "script" in markdown.value)
    with run.events_path.open("a") as file:
        file.write(json.dumps({"event": "look", "epoch": 9, "stage": "a", "depth": 1, "drift": "much"}) + "\n")
    app = visit(tmp_path, "overview", "live")
    assert "drift is 'much', expected a finite number" in said(app)
    manifest = json.loads((run.path / "run.json").read_text())
    manifest["monitor"] = {"chance": "high"}
    (run.path / "run.json").write_text(json.dumps(manifest))
    assert "monitor.chance" in said(visit(tmp_path, "overview", "live"))
