"""What a third-party probe declares of its metrics is shown everywhere, and nothing else is touched for it."""

import shutil

import pytest

import lwexplain as lw
from lwexplain.metrics import FAMILIES
from lwexplain.results import read_metrics
from lwexplain.results.checks import is_metrics
from lwexplain.run.binary_files import write_table
from lwexplain.views.contents import further_measurements, notes
from lwexplain.views.metrics import Metrics
from lwexplain.views.report import render_report
from lwexplain.views.separability import panel_families, separability_figure
from lwexplain.views.similarity import similarity_metrics
from lwexplain.views.text import print_measurements

SMALL = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 240, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 2}},
    "training": {"strategy": "greedy", "epochs": 1, "head": "conv"},
}


class Roughness:
    """A probe as somebody else writes it: no class of lwexplain is derived from."""

    name = "roughness"
    order = 5
    metrics = (
        lw.Metric("roughness", "roughness <of> features", better="lower", family="Robustness under noise"),
        lw.Metric("margin_of_mine", "margin of mine", better="higher", family="separability"),
        lw.Metric("likeness", "likeness of stages", family="similarity"),
    )

    def measure(self, stage):
        return [
            lw.Measurement("roughness", 0.5 * stage.depth, note="by hand"),
            lw.Measurement("roughness", 0.1, split="test"),
            lw.Measurement("margin_of_mine", 1.0),
            lw.Measurement("likeness", 0.5, class_=stage.name),
            lw.Measurement("of_no_declaration", 2.0),
        ]


class Before(Roughness):
    """One that comes after by its name and before by its order."""

    name = "zeroth"
    order = 1
    metrics = (lw.Metric("zeroth", better="higher"),)

    def measure(self, stage):
        return {"zeroth": 0.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that two third-party probes and then a built-in one have looked at."""
    run = lw.train(SMALL, run_dir=tmp_path_factory.mktemp("declared") / "run", quiet=True)
    lw.analyze(run, ["linear", Roughness(), Before()], quiet=True)
    lw.analyze(run, ["ncm"], quiet=True)
    return run


@pytest.fixture
def table(run):
    return read_metrics(run)


def test_the_table_holds_what_is_declared_of_its_metrics_also_after_another_analysis(table):
    declared = table.attrs["metrics"]
    assert set(declared) == set(table["metric"]) - {"of_no_declaration"}
    assert declared["roughness"] == {
        "title": "roughness <of> features",
        "better": "lower",
        "family": "Robustness under noise",
    }
    assert declared["ncm_accuracy"]["title"] == "nearest class mean"


def test_results_stand_in_the_order_that_probes_declare_built_in_ones_first(table):
    assert list(dict.fromkeys(table["probe"])) == [
        "cost", "receptive_field", "linear", "ncm", "zeroth", "roughness", "sample_depth",
    ]  # fmt: skip


def test_each_metric_stands_in_the_panel_of_its_family(table):
    families = panel_families(table)
    assert families["Robustness under noise"] == ["roughness"]
    assert families[FAMILIES["separability"]] == ["margin_of_mine"]
    assert families[FAMILIES["other"]] == ["zeroth", "of_no_declaration"]
    assert list(families)[-1] == FAMILIES["other"]


def test_a_figure_has_its_title_as_text_and_its_direction(table):
    figure = separability_figure(table, metrics=["roughness", "of_no_declaration"])
    declared, bare = (annotation.text for annotation in figure.layout.annotations)
    assert declared.startswith("<b>roughness &lt;of&gt; features</b>")
    assert "lower is better ↓" in declared
    assert bare.startswith("<b>of no declaration</b>")
    assert "no better direction stated" in bare


def test_its_similarity_of_stages_has_a_heat_map(table):
    assert similarity_metrics(table) == ["likeness"]


def test_notes_and_further_values_name_it_by_its_title(table):
    assert "by hand: roughness <of> features" in notes(table)
    assert "roughness <of> features" in set(further_measurements(table)["metric"])


def test_the_report_shows_title_direction_and_heading(run):
    page = render_report(run)
    assert "Robustness under noise" in page
    in_figures = page
    for written, character in (("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&"), ("\\u002f", "/")):
        in_figures = in_figures.replace(written, character)
    heading = in_figures.index("<b>roughness &lt;of&gt; features</b><br><span")
    assert "lower is better" in in_figures[heading : heading + 200]
    assert "roughness <of> features" not in page


def test_the_command_line_heads_its_column_by_the_title_and_an_arrow(run, capsys):
    print_measurements(run)
    head = capsys.readouterr().out.splitlines()[0]
    assert "margin of mine ↑" in head
    assert "of_no_declaration" in head


def test_an_analysis_that_stores_no_declarations_shows_built_in_metrics_as_ever(run, table, tmp_path):
    old = lw.Run.open(shutil.copytree(run.path, tmp_path / "old"))
    del table.attrs["metrics"]
    write_table(old.files, "analysis/metrics.parquet", table)
    before = read_metrics(old)
    known = Metrics.of(before)
    assert known.title("linear_probe_accuracy") == "linear probe"
    assert known.title("head_first_correct") == "trained head: first right here"
    assert known.direction("receptive_field") == "no better direction"
    assert known.title("margin_of_mine") == "margin of mine"
    assert known.direction("margin_of_mine") == "no better direction stated"
    assert panel_families(before)[FAMILIES["other"]][-3:] == ["roughness", "margin_of_mine", "of_no_declaration"]


@pytest.mark.parametrize(
    "stored",
    [
        ["nc1"],
        {"../nc1": {"title": "t", "better": None, "family": "other"}},
        {"nc1": {"title": "two\nlines", "better": None, "family": "other"}},
        {"nc1": {"title": "t", "better": "sideways", "family": "other"}},
        {"nc1": {"title": "t"}},
        {"nc1": "t"},
    ],
)
def test_declarations_of_a_stranger_that_no_analysis_writes_are_refused(stored):
    assert not is_metrics(stored)


def test_declarations_as_an_analysis_writes_them_are_taken():
    assert is_metrics({"nc1": lw.Metric("nc1", "NC1", "lower", "collapse").to_dict()})
