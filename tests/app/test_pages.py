"""Every page on every state of a run: whole, absent, unfinished, unanalyzed, damaged. Never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_factory import CLASSES, STAGES, N, make_run
from streamlit.testing.v1 import AppTest

from lwexplain.advice.simple_rules import SIMPLE_RULES
from lwexplain.explorer.run_picker import folder_below
from lwexplain.explorer.server import SCRIPT
from lwexplain.run import Run
from lwexplain.text import escape_markdown

PAGES = ["overview", "embeddings", "attributions", "compare"]


@pytest.fixture(autouse=True)
def _environment_as_before():
    before = os.environ.get("LWEXPLAIN_RUNS")
    yield
    os.environ.pop("LWEXPLAIN_RUNS", None)
    if before is not None:
        os.environ["LWEXPLAIN_RUNS"] = before


def visit(folder, page="overview", run=None, *, asked=None, **state):
    """The page as a person sees it who started the explorer with ``folder``, asked for the folder ``asked`` by the
    address and picked ``run``; a traceback fails the test."""
    os.environ["LWEXPLAIN_RUNS"] = str(folder)
    app = AppTest.from_file(str(SCRIPT), default_timeout=60)
    if asked is not None:
        app.query_params["folder"] = asked
    if run:
        app.query_params["run"] = run
    app.switch_page(f"{page}.py")
    for key, value in state.items():
        app.session_state[key] = value
    app.run()
    assert not app.exception
    return app


def said(app):
    """All the text of a page, Markdown escapes taken out."""
    parts = [app.title, app.subheader, app.markdown, app.caption, app.info, app.warning, app.error, app.code]
    return "\n".join(element.value for part in parts for element in part).replace("\\", "")


@pytest.mark.parametrize("page", PAGES)
def test_a_whole_run_shows_without_complaint(runs_folder, page):
    app = visit(runs_folder, page, "greedy")
    assert not app.error
    assert app.title[0].value.replace("\\", "") in {"greedy", "Embeddings", "Attributions", "Compare runs"}


def test_overview_states_the_recommendation_and_names_failed_probes(runs_folder):
    app = visit(runs_folder, "overview", "greedy")
    text = said(app)
    assert "Stop early: block" in text
    assert "Failed probes: broken_probe" in text
    assert {metric.label for metric in app.metric} >= {"Expected test accuracy", "Full depth", "Parameters saved"}
    # the depth curve, accuracy against cost, two families of measures, costs, training
    assert len(app.get("plotly_chart")) == 6


def test_overview_shows_classes_samples_and_similarities(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    table = pd.read_parquet(run.metrics_path)
    base = table[table["metric"] == "silhouette"]
    parts = [base.assign(**{"class": name, "metric": "knn_accuracy", "value": 0.5}) for name in CLASSES]
    parts += [base.assign(**{"class": "2 | 7", "metric": "fisher_ratio"})]
    parts += [base.assign(**{"class": stage, "metric": "cka_linear", "value": 0.5}) for stage in STAGES]
    parts += [base.assign(metric="head_first_correct", value=0.1)]
    parts += [base.assign(metric="head_cumulative_correct", value=0.5)]
    whole = pd.concat([table, *parts])
    whole.attrs = table.attrs
    whole.to_parquet(run.metrics_path)
    app = visit(tmp_path)
    text = said(app)
    assert not app.error
    assert "Single samples: at which depth they are right" in text
    assert "The pairs of classes that separate least, by their Fisher ratio" in text
    assert "How alike the stages are" in text
    assert app.selectbox(key="confused_stage").value == "block4"
    assert list(app.selectbox(key="confused_stage").options) == STAGES
    app.selectbox(key="confused_stage").set_value("stem").run()
    assert not app.exception


def test_overview_shows_where_simple_rules_would_stop_beside_the_recommendation(runs_folder):
    app = visit(runs_folder, "overview", "greedy")
    (rules,) = [frame.value for frame in app.dataframe if "rule" in frame.value]
    assert list(rules["rule"]) == ["lwexplain", *SIMPLE_RULES]
    assert f"(depth {rules['depth'][0]} of 6)" in said(app)
    assert rules.set_index("rule")["depth"]["always full"] == 6
    lacking = rules[rules["depth"].isna()]
    assert len(lacking)
    assert lacking["what it does"].str.contains("cannot be applied, the table lacks ").all()


def test_the_tolerance_slider_decides_anew_at_once(runs_folder):
    app = visit(runs_folder, "overview", "greedy")

    def depth():
        return next(metric.value for metric in app.metric if metric.label == "Depth")

    strict = depth()
    app.slider(key="tolerance").set_value(5.0).run()
    assert not app.exception
    assert int(depth().split()[0]) < int(strict.split()[0])


def test_the_table_per_depth_holds_values_with_intervals(runs_folder):
    app = visit(runs_folder, "overview", "greedy")
    frame = next(element.value for element in app.dataframe if "trained head" in element.value.columns)
    assert list(frame["stage"]) == STAGES
    assert all("[" in text for text in frame["trained head"])
    assert list(frame["parameters"])[:2] == [1_000, 6_000]


def test_a_choice_survives_the_switch_of_the_page(runs_folder):
    app = visit(runs_folder, "overview", "bp")
    app.slider(key="tolerance").set_value(2.5).run()
    app.switch_page("embeddings.py").run()
    assert app.selectbox(key="run_name").value == "bp"
    app.select_slider(key="stage").set_value("block1").run()
    app.switch_page("overview.py").run()
    assert app.slider(key="tolerance").value == 2.5
    assert app.query_params["run"] in ("bp", ["bp"])  # a list in older versions of Streamlit
    app.switch_page("embeddings.py").run()
    assert app.select_slider(key="stage").value == "block1"


def test_a_selection_shows_the_images_of_its_samples(runs_folder):
    points = [{"customdata": [sample], "point_index": 0, "curve_number": 0} for sample in (3, 17, 3)]
    selection = {"points": points, "point_indices": [0, 1, 2], "box": [], "lasso": []}
    app = visit(runs_folder, "embeddings", "greedy", **{f"embedding_{STAGES[-1]}": {"selection": selection}})
    assert "2 selected" in said(app)
    pieces = "".join(element.proto.body for element in app.get("html"))
    assert "sample 3, class 3" in pieces
    assert "sample 17, class 7" in pieces


def test_at_most_64_images_of_a_selection_are_shown(runs_folder):
    points = [{"customdata": [sample]} for sample in range(N)]
    selection = {"points": points, "point_indices": list(range(N)), "box": [], "lasso": []}
    app = visit(runs_folder, "embeddings", "greedy", **{f"embedding_{STAGES[-1]}": {"selection": selection}})
    pieces = "".join(element.proto.body for element in app.get("html"))
    assert pieces.count("<img") == 64
    assert f"{N} selected" in said(app)
    assert "64 are shown, wrong ones first" in said(app)


def test_attributions_say_which_stages_are_not_valid(runs_folder):
    app = visit(runs_folder, "attributions", "greedy")
    app.selectbox(key="attribution_method").set_value("integrated_gradients").run()
    assert not app.exception
    assert "block1: completeness residual 0.41 exceeds 0.05" in said(app).replace("**", "")
    pieces = "".join(element.proto.body for element in app.get("html"))
    assert pieces.count("not valid") >= 6
    assert "image 5: no better than chance" in said(app)
    quality = app.dataframe[0].value
    assert quality["valid"].tolist()[:2] == ["yes", "no"]
    assert quality["valid images"].tolist()[:2] == ["5 of 6", "0 of 6"]


def test_measurements_that_no_chart_shows_stand_in_a_table(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    table = pd.read_parquet(run.metrics_path)
    test = table[table["metric"] == "my_metric"].assign(split="test", value=0.25)
    whole = pd.concat([table, test])
    whole.attrs = table.attrs
    whole.to_parquet(run.metrics_path)
    app = visit(tmp_path, "overview")
    assert "Further measurements" in said(app)
    frame = next(element.value for element in app.dataframe if "class" in element.value.columns)
    assert frame.iloc[0].tolist() == ["my metric", "test", "all", *[0.25] * len(STAGES)]


def test_maps_that_do_not_fit_leave_the_other_methods_to_look_at(tmp_path):
    run = make_run(tmp_path / "run")
    maps = run.analysis / "attributions" / "gradcam.npy"
    np.save(maps, np.load(maps)[:, :-1])
    app = visit(tmp_path, "attributions")
    assert "gradcam cannot be shown" in said(app)
    app.selectbox(key="attribution_method").set_value("integrated_gradients").run()
    assert not app.error
    assert any("<img" in element.proto.body for element in app.get("html"))


def test_compare_lists_a_recommendation_for_each_run(runs_folder):
    app = visit(runs_folder, "compare", "greedy")
    assert list(app.dataframe[0].value["run"]) == ["greedy", "bp"]
    assert list(app.dataframe[0].value["judged by"]) == ["trained head", "linear probe"]
    assert app.dataframe[0].value["test accuracy"].str.contains("[", regex=False).all()
    app.multiselect(key="compared").set_value([]).run()
    assert not app.exception
    assert "Choose two or more" in said(app)


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_folder_says_how_to_make_a_run(tmp_path, page):
    text = said(visit(tmp_path, page))
    assert "holds no run directory" in text
    assert "lwexplain demo" in text


@pytest.mark.parametrize("page", PAGES)
def test_a_missing_folder_is_named(tmp_path, page):
    assert "There is no folder" in said(visit(tmp_path / "nowhere", page))


@pytest.mark.parametrize("page", PAGES[:3])
def test_an_unfinished_run_shows_its_state_and_how_to_go_on(tmp_path, page):
    make_run(tmp_path / "half", status="training", analyzed=False)
    app = visit(tmp_path, page)
    text = said(app)
    assert "block2, epoch 2 of 3" in text
    assert "--resume" in text
    assert len(app.get("plotly_chart")) == 1


@pytest.mark.parametrize("page", PAGES[:3])
def test_a_run_that_is_not_analyzed_names_the_command(tmp_path, page):
    make_run(tmp_path / "raw", analyzed=False)
    assert f"lwexplain analyze {tmp_path / 'raw'}" in said(visit(tmp_path, page))


def test_compare_keeps_good_runs_beside_bad_ones(tmp_path):
    make_run(tmp_path / "a", pictures=False)
    make_run(tmp_path / "raw", analyzed=False)
    app = visit(tmp_path, "compare", "a")
    assert "no analysis yet" in said(app)
    assert list(app.dataframe[0].value["run"]) == ["a"]


def cut(path):
    path.write_bytes(path.read_bytes()[: max(8, path.stat().st_size // 3)])


DAMAGE = {
    "run.json cut": lambda run: cut(run / "run.json"),
    "run.json of another tool": lambda run: (run / "run.json").write_text("[1, 2]"),
    "config.yaml is no mapping": lambda run: (run / "config.yaml").write_text("- a\n- b\n"),
    "events are binary": lambda run: (run / "events.jsonl").write_bytes(bytes(range(256)) * 4),
    "metrics cut": lambda run: cut(run / "analysis" / "metrics.parquet"),
    "metrics empty": lambda run: (run / "analysis" / "metrics.parquet").write_bytes(b""),
    "metrics without their names": lambda run: pd.read_parquet(run / "analysis" / "metrics.parquet").pipe(
        lambda table: setattr(table, "attrs", {}) or table.to_parquet(run / "analysis" / "metrics.parquet")
    ),
    "predictions cut": lambda run: cut(run / "analysis" / "predictions.parquet"),
    "predictions gone": lambda run: (run / "analysis" / "predictions.parquet").unlink(),
    "embedding is another table": lambda run: (run / "analysis" / "embeddings" / "umap.parquet").write_bytes(
        (run / "analysis" / "predictions.parquet").read_bytes()
    ),
    "thumbnails cut": lambda run: cut(run / "analysis" / "thumbnails.npy"),
    "maps cut": lambda run: cut(run / "analysis" / "attributions" / "gradcam.npy"),
    "maps of another shape": lambda run: (run / "analysis" / "attributions" / "gradcam.npy").write_bytes(
        (run / "analysis" / "thumbnails.npy").read_bytes()
    ),
    "attribution index of another tool": lambda run: (run / "analysis/attributions/index.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_gets_a_friendly_page(tmp_path, damage):
    run = tmp_path / "broken"
    make_run(run)
    DAMAGE[damage](run)
    pages = [visit(tmp_path, page) for page in PAGES]
    complaints = [said(app) for app in pages]
    assert all(app.title for app in pages)
    assert damage == "events are binary" or any("cannot be" in text or "damaged" in text for text in complaints)


def test_foreign_text_is_shown_and_not_interpreted(tmp_path):
    bad = "<script>alert(1)</script> [x](http://example.org)"
    make_run(tmp_path / "odd", classes=[bad, *CLASSES[1:]])
    points = [{"customdata": [0]}]
    for page in PAGES:
        app = visit(tmp_path, page, **{f"embedding_{STAGES[-1]}": {"selection": {"points": points}}})
        assert "<script>" not in "".join(element.proto.body for element in app.get("html"))


def test_no_page_loads_torch(runs_folder):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import streamlit.components.v2.manifest_scanner as scanner
from test_pages import PAGES, visit
scanner.scan_component_manifests = list
for page in PAGES:
    visit(Path({str(runs_folder)!r}), page, "greedy")
print(sorted(name for name in ("torch", "torchvision", "captum", "numba", "umap") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_folder_comes_from_the_environment_where_no_argument_is_given(runs_folder, monkeypatch):
    monkeypatch.setitem(os.environ, "LWEXPLAIN_RUNS", str(runs_folder))
    app = AppTest.from_file(str(SCRIPT), default_timeout=30).run()
    assert not app.exception
    assert app.selectbox(key="run_name").options == ["bp", "greedy"]


def runs_shown(app):
    return [name for box in app.selectbox if box.key == "run_name" for name in box.options]


@pytest.mark.parametrize("asked", ["greedy", "{folder}/greedy", "{folder}/../{name}/greedy", "./greedy/"])
def test_a_folder_below_the_one_it_was_started_with_can_be_asked_for(runs_folder, asked):
    app = visit(runs_folder, "embeddings", asked=asked.format(folder=runs_folder, name=runs_folder.name))
    assert runs_shown(app) == ["greedy"]


def test_what_lies_elsewhere_is_not_opened_and_nothing_is_told_of_it(tmp_path):
    started, outside = tmp_path / "started", tmp_path / "outside"
    make_run(outside / "secret", pictures=False)
    make_run(started / "own", pictures=False)
    (outside / "notes.txt").write_text("x")
    (started / "link").symlink_to(outside)
    (started / "linked_run").symlink_to(outside / "secret")
    (started / "file").symlink_to(outside / "notes.txt")
    (started / "circle").symlink_to(started / "circle")
    assert runs_shown(visit(started, "embeddings")) == ["own"]
    forbidden = [
        str(outside), str(outside / "secret"), str(started / ".." / "outside"), "../outside", "..", "/", "~",
        str(started / "link"), str(started / "link" / "secret"), str(started / "linked_run"), str(started / "file"),
        str(started / "circle"), f"{started}side", "~nobody_of_this_name", "a\0b", "a" * 300,
    ]  # fmt: skip
    absent = visit(started, asked="absent").warning[0].value
    assert absent.startswith("There is no folder absent below ")
    assert [asked for asked in forbidden if folder_below(asked, [str(started)]) is not None] == []
    for page, asked in zip(PAGES, (str(outside), str(started / "link"), "..", str(outside / "secret")), strict=True):
        app = visit(started, page, asked=asked)
        assert runs_shown(app) == []
        (warning,) = app.warning
        assert warning.value == absent.replace("absent", escape_markdown(asked))


def test_a_folder_that_is_a_link_itself_may_be_started_with(tmp_path):
    make_run(tmp_path / "real" / "own", pictures=False)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for asked in (None, "own", str(tmp_path / "link" / "own"), str(tmp_path / "real" / "own")):
        assert runs_shown(visit(tmp_path / "link", "embeddings", asked=asked)) == ["own"]


def test_a_run_directory_itself_can_be_opened(runs_folder):
    app = visit(runs_folder / "greedy")
    assert app.selectbox(key="run_name").options == ["greedy"]
    assert Run.open(runs_folder / "greedy").status == "trained"


def test_the_overview_says_what_training_took(runs_folder):
    assert "1,234 images/s in the last epoch" in said(visit(runs_folder, "overview", "greedy"))


# ---------------------------------------------------------------------- costs, objective and budgets


def depth_of(app):
    return next(metric.value for metric in app.metric if metric.label == "Depth")


def charted(app, key="pareto"):
    return any(key in str(element.proto.id) for element in app.get("plotly_chart"))


def prospects_shown(app):
    return next(element.value for element in app.dataframe if "on the front of" in element.value.columns)


def test_accuracy_against_cost_is_charted_and_tabled_by_depth(runs_folder):
    app = visit(runs_folder, "overview", "bp")
    assert "Chosen by: fewest parameters of all depths that are enough." in said(app)
    frame = prospects_shown(app)
    assert list(frame["stage"]) == STAGES
    assert list(frame["depth"]) == [1, 2, 3, 4, 5, 6]
    assert list(frame["parameters"])[:2] == [1_000, 6_000]
    assert frame["memory (MiB)"].iloc[0] == (4 * 1_000 + 50_000) / 2**20
    assert f"{frame.loc[frame[''] == '★', 'depth'].item()} of 6" == depth_of(app)
    assert charted(app)


def test_the_objective_decides_anew_and_is_told(runs_folder):
    app = visit(runs_folder, "overview", "greedy")
    app.slider(key="tolerance").set_value(5.0).run()
    cheap = depth_of(app)
    app.selectbox(key="objective").set_value("accuracy").run()
    assert not app.exception
    assert "Chosen by: highest expected accuracy of all depths." in said(app)
    assert int(depth_of(app).split()[0]) > int(cheap.split()[0])


def test_a_budget_is_kept_to(runs_folder):
    app = visit(runs_folder, "overview", "greedy")
    app.number_input(key="budget_params").set_value(25_000).run()
    assert depth_of(app) == "3 of 6"
    assert "Chosen by: highest expected accuracy of the depths within 25,000 parameters, none of which is enough." in (
        said(app)
    )
    app.number_input(key="budget_latency").set_value(0.81).run()  # 0.4 ms a stage
    assert depth_of(app) == "2 of 6"


def test_a_budget_that_nothing_fits_is_a_message_beside_what_there_is(runs_folder):
    app = visit(runs_folder, "overview", "greedy")
    app.number_input(key="budget_memory").set_value(0.01).run()
    assert not app.exception
    assert not app.error
    text = said(app)
    assert "No recommendation: no depth keeps memory within 0.01 MiB: the least is 0.0515 MiB, at stem" in text
    assert "No depth keeps the budgets." in text
    assert list(prospects_shown(app)["stage"]) == STAGES
    app.number_input(key="budget_memory").set_value(0.0).run()
    assert "the budget of memory is 0.0; it must be a positive number" in said(app)


def test_objective_and_budgets_hold_on_the_compare_page(runs_folder):
    app = visit(runs_folder, "overview", "greedy")
    app.selectbox(key="objective").set_value("latency").run()
    app.number_input(key="budget_params").set_value(7_000).run()
    app.switch_page("compare.py").run()
    assert not app.exception
    text = said(app)
    assert "the objective 'lowest latency' and a budget of 7,000 parameters (set on Overview)" in text
    frame = next(element.value for element in app.dataframe if "verdict" in element.value.columns)
    assert set(frame["depth"]) == {"2 of 6"}
    app.switch_page("overview.py").run()
    assert app.selectbox(key="objective").value == "latency"
    assert app.number_input(key="budget_params").value == 7_000


def test_a_run_without_a_cost_has_no_field_to_bound_it(tmp_path):
    run = make_run(tmp_path / "run", pictures=False)
    table = pd.read_parquet(run.metrics_path)
    kept = table[~table["metric"].isin(["memory_bytes", "parameters"])]
    kept.attrs = table.attrs
    kept.to_parquet(run.metrics_path)
    app = visit(tmp_path, kept_budget_memory=1.0)
    assert app.number_input(key="budget_memory").disabled
    assert not app.number_input(key="budget_flops").disabled
    assert list(app.selectbox(key="objective").options) == [
        "fewest parameters", "fewest FLOPs", "lowest latency", "highest accuracy",
    ]  # fmt: skip
    assert "Chosen by: fewest stages (parameters were not measured) of all depths that are enough." in said(app)
    assert "No recommendation" not in said(app)
