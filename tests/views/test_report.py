"""The report is one file that needs nothing else, and holds what the run holds."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from run_factory import CLASSES, STAGES, make_run

from lwexplain.errors import RunError
from lwexplain.views.report import render_report, write_report


class Page(HTMLParser):
    """Collects addresses a browser would load or follow, the text outside of scripts, and element names."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.text = []
        self.elements = []
        self.styles = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self._inside = tag if tag in ("script", "style") else self._inside
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                self.addresses.append(value or "")
            if name == "style":
                self.styles.append(value or "")
            assert not name.startswith("on"), f"an event handler: {name}={value}"

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data):
        if self._inside == "style":
            self.styles.append(data)
        elif not self._inside:
            self.text.append(data)

    def said(self):
        return " ".join(" ".join(self.text).split())


def test_the_report_is_one_file_without_any_address(tmp_path):
    path = write_report(make_run(tmp_path / "run"))
    assert path == tmp_path / "run" / "report.html"
    assert path.stat().st_size < 10_000_000
    page = Page(path.read_text(encoding="utf-8"))
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not any("url(" in style or "@import" in style for style in page.styles)
    assert "link" not in page.elements


def test_the_report_says_what_the_run_holds(tmp_path):
    failures = [{"probe": "broken_probe", "stage": "block2", "error": "ValueError: no"}]
    run = make_run(tmp_path / "run", failures=failures, note="stratified sub-sample of val")
    text = render_report(run)
    said = Page(text).said()
    for piece in (
        "Stop early: block",
        "depth 5 of 6",
        "parameters saved",
        "Separability over depth",
        "Embedding: umap",
        "Attribution: gradcam",
        "completeness residual 0.41",
        "Cost of each depth",
        "Training",
        "broken_probe",
        "stratified sub-sample of val",
        "0123456789abcdef",
        str(run.manifest["id"]),
        "seed",
    ):
        assert piece in said, piece
    assert all(stage in said for stage in STAGES)
    places = re.findall(r'data-figure="(\d+)"', text)
    assert sorted(set(map(int, places))) == list(range(text.count('type="application/json"')))


def test_foreign_text_cannot_act(tmp_path):
    evil = "<script>alert(1)</script>"
    classes = [evil, "</script><img src=x onerror=alert(2)>", *CLASSES[2:]]
    run = make_run(
        tmp_path / "run",
        classes=classes,
        note='"><img src=http://example.org/x>',
        failures=[{"probe": evil, "stage": evil, "error": evil}],
    )
    run.update(progress=evil, data={"name": evil})
    text = render_report(run)
    assert evil not in text
    assert "<img src=x" not in text
    page = Page(text)
    assert page.elements.count("script") == text.count('type="application/json"') + 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)


def test_a_run_without_pictures_has_a_report_without_them(tmp_path):
    said = Page(render_report(make_run(tmp_path / "run", pictures=False))).said()
    assert "Stop early" in said
    assert "Embedding:" not in said
    assert "could not be read" not in said


def test_damaged_parts_are_named_and_the_rest_stands(tmp_path):
    run = make_run(tmp_path / "run")
    maps = run.analysis / "attributions" / "gradcam.npy"
    maps.write_bytes(maps.read_bytes()[:100])
    (run.analysis / "embeddings" / "pca.parquet").write_bytes(b"no parquet")
    (run.path / "config.yaml").write_text("- a\n")
    said = Page(render_report(run)).said()
    assert "Parts that could not be read" in said
    assert all(name in said for name in ("gradcam.npy", "pca.parquet", "config.yaml"))
    assert "Stop early" in said


def rewrite(run, change):
    """Change the long table on disk, its attrs kept."""
    table = pd.read_parquet(run.metrics_path)
    changed = change(table)
    changed.attrs = table.attrs
    changed.to_parquet(run.metrics_path, index=False)


def test_a_section_that_cannot_be_drawn_becomes_a_line(tmp_path, monkeypatch):
    def odd(*_, **__):
        raise ValueError("no\nsuch value")

    for name in (
        "recommendation.depth_figure",
        "recommendation.depth_tables",
        "recommendation.pareto_figure",
        "recommendation.rules_beside",
        "measures.separability_figure",
        "measures.cost_figure",
        "measures.training_figure",
        "measures.further_table",
        "pictures.embedding_overview",
        "pictures.attribution_grid_html",
        "draft.advice_of",
    ):
        monkeypatch.setattr(f"lwexplain.views.report.{name}", odd)
    text = render_report(make_run(tmp_path / "run", note="a note"))
    said = Page(text).said()
    for section in (
        "Recommendation",
        "Simple rules",
        "Accuracy over depth",
        "Table over depth",
        "How well the classes separate",
        "Cost of each depth",
        "Training",
        "Embedding umap",
        "Attribution gradcam",
        "Further measurements",
    ):
        assert f"{section}: cannot be drawn (ValueError: no such value)" in said, section
    assert "a note" in said
    assert "0123456789abcdef" in said
    assert 'data-figure="' not in text


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.assign(depth=float("nan")),
        lambda table: table.assign(depth=float("inf")),
        lambda table: table.assign(metric=3),
        lambda table: table.assign(value=float("nan")),
        lambda table: table.assign(**{"class": 1}),
        lambda table: table.assign(stage=None),
        lambda table: table.assign(note=1.5),
    ],
)
def test_an_odd_table_still_has_a_report(tmp_path, change):
    run = make_run(tmp_path / "run")
    rewrite(run, change)
    assert "0123456789abcdef" in Page(render_report(run)).said()


def test_measurements_that_no_chart_shows_stand_in_a_table(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    assert "Further measurements" not in Page(render_report(run)).said()
    custom = lambda table: table[table["metric"] == "my_metric"]  # noqa: E731
    rewrite(run, lambda t: pd.concat([t, custom(t).assign(split="test", value=0.125)]))
    rewrite(run, lambda t: pd.concat([t, custom(t)[:1].assign(**{"split": "val", "class": "seven", "value": 0.625})]))
    said = Page(render_report(run)).said()
    assert "my metric test all 0.125 0.125" in said
    assert "my metric val seven 0.625 –" in said


def test_the_expected_accuracy_says_on_which_split(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    assert "expected test accuracy" in Page(render_report(run)).said()
    rewrite(run, lambda table: table[table["split"] != "test"])
    assert "expected val accuracy" in Page(render_report(run)).said()


def test_the_report_keeps_the_tolerance_of_the_recommendation_on_file(tmp_path):
    run = make_run(tmp_path / "run")
    run.write_json("analysis/recommendation.json", {"tolerance": 0.05})
    said = Page(render_report(run)).said()
    assert "tolerance 5 points" in said
    assert "depth 3 of 6" in said


def test_no_advice_is_said_and_not_fatal(tmp_path):
    from lwexplain.results import read_metrics

    run = make_run(tmp_path / "run", pictures=False)
    table = read_metrics(run)
    table.attrs["patterns"] = {}
    table.to_parquet(run.metrics_path, index=False)
    assert "No recommendation:" in Page(render_report(run)).said()


def test_a_run_without_analysis_has_no_report(tmp_path):
    with pytest.raises(RunError, match="lwexplain analyze"):
        render_report(make_run(tmp_path / "run", analyzed=False))
    assert not (tmp_path / "run" / "report.html").exists()


def test_the_report_can_be_written_elsewhere(tmp_path):
    out = tmp_path / "deep" / "er" / "r.html"
    assert write_report(make_run(tmp_path / "run", pictures=False), out) == out
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_report_says_what_training_took_and_copes_with_a_run_that_does_not_say(tmp_path):
    run = make_run(tmp_path / "run")
    said = Page(render_report(run)).said()
    assert "12 s in all, 1,234 images/s in the last epoch" in said
    assert "3.0 MiB of activations; the process took 700 MiB at most" in said
    run.update(costs={"images_per_second": "fast"})
    assert "images/s" not in Page(render_report(run)).said()


def with_everything(run):
    """Rows of single classes, of pairs, of stages against each other and of the depths of samples."""
    table = pd.read_parquet(run.metrics_path)
    base = table[table["metric"] == "silhouette"]
    parts = [base.assign(**{"class": name, "metric": "knn_accuracy", "value": 0.5}) for name in CLASSES]
    parts += [base.assign(**{"class": f"{a} | {b}", "metric": "fisher_ratio"}) for a, b in ("27", "49")]
    parts += [base.assign(**{"class": stage, "metric": "cka_linear", "value": 0.5}) for stage in STAGES]
    names = ("first_correct", "cumulative_correct", "right_early_wrong_late")
    parts += [base.assign(metric=f"head_{name}", value=0.1) for name in names]
    parts += [base.assign(metric=name, value=0.75) for name in ("trustworthiness", "pca_neighbors_kept")]
    rewrite(run, lambda table: pd.concat([table, *parts]))


def test_the_report_shows_classes_pairs_samples_and_similarities(tmp_path):
    run = make_run(tmp_path / "run")
    with_everything(run)
    text = render_report(run)
    said = Page(text).said()
    for piece in (
        "Single samples: at which depth they are right By the trained head",
        "What is taken for what at block4",
        "Single classes",
        "By their Fisher ratio, the worst first. stage 1. 2. stem 2 | 7 (-0.1)",
        "How alike the stages are",
        "linear CKA",
        "Trustworthiness 0.75 to 0.75.",
        "Share of neighbours kept 0.75 to 0.75.",
    ):
        assert piece in said, piece
    assert "could not be read" not in said
    assert "Further measurements" not in said


def test_measures_of_a_thousand_classes_leave_the_report_small(tmp_path):
    classes = [f"class {k}" for k in range(1000)]
    run = make_run(tmp_path / "run", classes=classes, pictures=False)
    size = len(render_report(run))
    base = pd.read_parquet(run.metrics_path)
    base = base[base["metric"] == "silhouette"]
    names = ("knn_accuracy", "silhouette", "dsi")
    parts = [base.assign(**{"class": name, "metric": metric}) for name in classes for metric in names]
    rewrite(run, lambda table: pd.concat([table, *parts]))
    assert len(render_report(run)) < size + 200_000


def test_the_report_sets_accuracy_against_cost(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    said = Page(render_report(run)).said()
    start = said.index("Accuracy against cost Stop early: block4 (depth 5 of 6). Chosen by: fewest parameters of all")
    part = said[start : said.index("Separability over depth")]
    assert "latency (ms) memory (MiB) on the front of enough 1 stem" in part
    assert all(f"{depth} {stage} 0." in part for depth, stage in enumerate(STAGES, start=1))
    assert "the tolerance of 0.5 points" in part
    assert "memory saved" in said
    assert "90 % interval" in said


def test_prospects_are_shown_where_the_full_depth_is_advised(tmp_path):
    rising = [0.3, 0.45, 0.6, 0.75, 0.85, 0.97]
    said = Page(render_report(make_run(tmp_path / "run", accuracy=rising, pictures=False))).said()
    assert "Accuracy against cost" in said
    assert "Stop early" not in said


def test_nothing_is_set_against_cost_without_a_signal(tmp_path):
    said = Page(render_report(make_run(tmp_path / "run", accuracy=[0.1] * 6, pictures=False))).said()
    assert "No signal to decide on" in said
    assert "Accuracy against cost" not in said
    assert "could not be read" not in said


def test_the_report_keeps_objective_and_budgets_of_the_recommendation_on_file(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    run.write_json("analysis/recommendation.json", {"objective": "accuracy", "budgets": {"params": 25_000}})
    said = Page(render_report(run)).said()
    assert "Chosen by: highest expected accuracy of the depths within 25,000 parameters." in said
    assert "depth 3 of 6" in said


@pytest.mark.parametrize(
    "given", [{"objective": "speed", "budgets": {"flops": -1}}, {"objective": None, "budgets": [1]}, ["odd"]]
)
def test_an_odd_recommendation_on_file_is_as_if_it_were_not_there(tmp_path, given):
    run = make_run(tmp_path / "run", pictures=False)
    run.write_json("analysis/recommendation.json", given)
    said = Page(render_report(run)).said()
    assert "Chosen by: fewest parameters of all depths that are enough." in said
    assert "tolerance 0.5 points" in said


def test_budgets_on_file_that_nothing_fits_any_more_are_said(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    run.write_json("analysis/recommendation.json", {"budgets": {"latency": 1e-6}})
    said = Page(render_report(run)).said()
    assert "No recommendation: no depth keeps latency within 0.001 ms: the least is 0.4 ms" in said


def test_the_tolerance_is_drawn_around_the_best_only_where_that_curve_alone_decides(tmp_path):
    by_heads = render_report(make_run(tmp_path / "greedy", pictures=False))
    by_probes = render_report(make_run(tmp_path / "bp", strategy="bp", pictures=False))
    assert "within 0.5 points of the best" in by_heads
    assert 'within 0.5 points of the best"' not in by_probes
    assert "The accuracy that decides" in by_heads
    said = Page(by_probes).said()
    assert "The linear probe, from which the expected accuracy is worked out" in said
    assert "by linear probes and receptive fields, as a model of retrained networks weighs them" in said
