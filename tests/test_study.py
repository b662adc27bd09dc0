"""A study trains what is missing, keeps what is done and sums it up; the thesis is one of them."""

import io
import json
import statistics
from contextlib import redirect_stderr, redirect_stdout

import pytest

from lwexplain import api
from lwexplain.cli import main
from lwexplain.errors import ConfigError
from lwexplain.reproduce import thesis_experiments
from lwexplain.results import read_metrics
from lwexplain.study import Experiment, run_study, spread
from lwexplain.views.study_table import accuracy, experiment_table, summary_table

TINY = {
    "data": {"name": "synthetic", "batch_size": 32, "options": {"samples": 300, "size": 8, "classes": 3}},
    "model": {"name": "cnn", "width": 4, "options": {"depth": 3}},
    "training": {"epochs": 1, "optimizer": {"lr": 0.05}},
}


def experiment(name, **training):
    return Experiment(name, f"title of {name}", TINY | {"training": TINY["training"] | training})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two experiments with two seeds: their folder, the rows and what was said."""
    out = tmp_path_factory.mktemp("study")
    said = []
    rows = run_study([experiment("bp"), experiment("layers", strategy="greedy")], [0, 1], out, say=said.append)
    return out, rows, said


def test_every_seed_of_every_experiment_is_a_run_of_its_own(study):
    out, rows, said = study
    assert len(said) == 4
    assert [(row["name"], row["seeds"]) for row in rows] == [("bp", [0, 1]), ("layers", [0, 1])]
    seeds = [api.load_config(out / "layers" / f"seed_{seed}" / "config.yaml").seed for seed in (0, 1)]
    assert seeds == [0, 1]


def test_figures_are_means_over_the_runs(study):
    out, rows, _ = study
    values = []
    for seed in (0, 1):
        table = read_metrics(api.Run.open(out / "layers" / f"seed_{seed}"))
        found = table[(table["metric"] == "head_accuracy") & (table["split"] == "test") & (table["depth"] == 3)]
        values.append(found[found["class"].isna()]["value"].item())
    assert rows[1]["test_accuracy"] == {
        "mean": pytest.approx(statistics.fmean(values)),
        "std": pytest.approx(statistics.stdev(values)),
        "values": values,
    }
    assert rows[1]["by_depth"][2]["head"] == rows[1]["test_accuracy"]
    assert rows[0]["by_depth"][0]["head"] is None, "bp has no head at depth 1"
    assert rows[0]["by_depth"][0]["linear_probe"] is not None
    assert rows[0]["activation_bytes"]["mean"] > rows[1]["activation_bytes"]["mean"]


def test_what_is_done_is_not_done_again(study, monkeypatch):
    out, rows, _ = study
    monkeypatch.setattr("lwexplain.training.loop.Trainer.fit", None)
    said = []
    again = run_study([experiment("bp"), experiment("layers", strategy="greedy")], [0, 1], out, say=said.append)
    assert said == []
    assert again == rows == json.loads((out / "table.json").read_text())


def test_a_study_of_another_configuration_is_refused_and_nothing_is_lost(study):
    out, _, _ = study
    with pytest.raises(ConfigError, match=r"training\.epochs \(1 then, 2 now\)"):
        run_study([experiment("bp", epochs=2)], [0], out, say=print)
    assert read_metrics(api.Run.open(out / "bp" / "seed_0")) is not None


def test_one_value_has_no_deviation():
    assert spread([0.25]) == {"mean": 0.25, "std": None, "values": [0.25]}
    assert accuracy(spread([0.25])) == "25.00"
    assert accuracy(spread([0.25, 0.75])) == "50.00 ± 35.36"
    assert accuracy(None) == "-"


def test_tables_have_a_row_for_each_experiment_and_for_each_depth(study):
    _, rows, _ = study
    assert [line[0] for line in summary_table(rows).rows] == ["title of bp", "title of layers"]
    assert [line[:2] for line in experiment_table(rows[1]).rows] == [["1", "conv1"], ["2", "conv2"], ["3", "conv3"]]
    for table in (summary_table(rows), experiment_table(rows[0])):
        assert {len(line) for line in table.rows} == {len(table.header)}


def test_the_thesis_compares_three_networks_under_one_recipe():
    found = {made.name: api.load_config(made.config) for made in thesis_experiments("fashion_mnist", 16, {})}
    assert list(found) == ["bp", "layerwise", "slim_layerwise"]
    assert [config.model.name for config in found.values()] == ["resnet18", "resnet18", "slim_resnet18"]
    assert [config.training.strategy for config in found.values()] == ["bp", "greedy", "greedy"]
    recipes = [config.training.model_dump(exclude={"strategy", "head"}) for config in found.values()]
    assert recipes[0] == recipes[1] == recipes[2]
    assert all(config.training.optimizer.name == "sgd" for config in found.values())


def test_the_thesis_takes_a_folder_of_images_and_overrides(tmp_path):
    (made, *_) = thesis_experiments(str(tmp_path), None, {"training.epochs": 3})
    config = api.load_config(made.config)
    assert (config.data.name, config.data.root, config.training.epochs) == ("folder", tmp_path, 3)
    assert config.model.width is None


def reproduce(monkeypatch, *arguments):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.argv", ["lwexplain", "reproduce", "thesis", *map(str, arguments)])
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit:
        main()
    assert not exit.value.code, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.mark.slow
def test_reproduce_prints_and_writes_the_tables_and_goes_on_where_it_was(tmp_path, monkeypatch):
    few = ["training.epochs=1", "data.train_size=200"]
    arguments = [*few, "--data", "digits", "--width", "2", "--seeds", "1", "--out", tmp_path / "t"]
    printed, said = reproduce(monkeypatch, *arguments)
    for title in ("ResNet-18, BP + SGD", "ResNet-18, layer-wise", "slim ResNet-18, layer-wise"):
        assert title in printed
        assert title in (tmp_path / "t" / "table.md").read_text()
        assert title in said
    last = [line.split()[:2] for line in printed.splitlines() if "layer4." in line]
    assert last == [["8", "layer4.0"], ["9", "layer4.1"]] * 2 + [["7", "layer4.0"]]
    again, said = reproduce(monkeypatch, *arguments)
    assert (again, said) == (printed, "")
