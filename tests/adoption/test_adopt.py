"""A network that somebody else trained becomes an ordinary run."""

import os

import numpy as np
import pandas as pd
import pytest
import torch
from module_state import random_states, state_of

import lwexplain as lw
from lwexplain.errors import CaptureError, RunError
from lwexplain.probes.attribution.probe import AttributionMaps
from lwexplain.results import read_attributions, read_thumbnails

STAGES = ["stem", "blocks.0", "blocks.1"]
PROBES = ["head", "ncm", "linear", "separability"]


def adopt(model, loaders, out, **options):
    return lw.adopt(model, loaders, STAGES, out=out, quiet=True, **options)


def test_the_run_says_what_was_adopted(model, loaders, out):
    run = adopt(model, loaders, out, classes=[f"digit {n}" for n in range(10)], mean=[0.3], std=[0.4])
    assert (run.status, run.is_adopted, run.trained_depth) == ("adopted", True, 3)
    assert run.manifest["stages"] == STAGES
    assert run.manifest["data"]["sizes"] == {"train": 600, "val": 300, "test": 300}
    assert run.manifest["data"]["classes"][3] == "digit 3"
    assert run.config()["model"]["name"] == "Net"
    assert "class Net" not in "".join(path.read_text(errors="ignore") for path in out.rglob("*.*") if path.is_file())


def test_its_analysis_equals_that_of_the_module(model, loaders, out):
    loaders = {split: list(loader) for split, loader in loaders.items()}
    table = lw.analyze(adopt(model, loaders, out), PROBES, quiet=True)
    expected = lw.analyze_model(model, loaders, STAGES, PROBES, quiet=True)
    found = [by_name(frame) for frame in (table, expected)]
    pd.testing.assert_series_equal(*found)
    assert table.attrs["failures"] == expected.attrs["failures"] == []
    assert set(table["metric"]) >= {"head_accuracy", "parameters", "flops", "receptive_field"}


def by_name(table):
    """The values that do not depend on the clock, by what they are of."""
    rows = table[table["metric"] != "latency_seconds"].fillna({"class": "all"})
    return rows.set_index(["depth", "split", "metric", "class"])["value"].sort_index()


def test_the_model_and_the_random_states_stay_as_they_were(model, loaders, out):
    loaders = {split: list(loader) for split, loader in loaders.items()}  # a shuffling loader draws by itself
    before, drawn = state_of(model), random_states()
    run = adopt(model, loaders, out)
    lw.analyze(run, ["ncm"], quiet=True)
    assert state_of(model) == before
    assert random_states() == drawn


def test_everything_that_takes_a_run_takes_it(model, loaders, out, tmp_path):
    run = adopt(model, loaders, out, mean=[0.3], std=[0.4])
    lw.analyze(run, [*PROBES, "similarity"], quiet=True)
    advice = lw.recommend(run)
    assert advice.full_depth == 3
    assert (out / "analysis" / "recommendation.json").exists()
    assert "Net on loaders" in lw.report(run).read_text()
    assert lw.compare([run, out])["model"].tolist() == ["Net", "Net"]
    similar = lw.similarity(run, out, max_samples=100)
    assert np.allclose(similar[similar["depth"] == similar["other_depth"]]["cka_linear"], 1)


def test_attribution_maps_are_made_in_true_colours(model, loaders, out):
    run = adopt(model, loaders, out, mean=[0.3], std=[0.4])
    table = lw.analyze(run, ["linear", AttributionMaps(["saliency"], checks=[])], quiet=True)
    assert table.attrs["failures"] == []
    pictures = read_attributions(run)
    assert pictures.attribution_images.shape[1:] == (8, 8, 1)
    images = torch.cat([batch[0] for batch in loaders["val"]])
    pixels = (images * 0.4 + 0.3).mul(255).round().byte()
    assert np.array_equal(read_thumbnails(run), pixels.permute(0, 2, 3, 1).numpy())


def test_the_same_network_and_images_give_the_run_that_is_there(model, loaders, out):
    first = adopt(model, loaders, out)
    stamp = os.stat(out / "run.json").st_mtime_ns
    again = adopt(model, loaders, out)
    assert again.manifest["id"] == first.manifest["id"]
    assert os.stat(out / "run.json").st_mtime_ns == stamp


def test_another_network_or_other_images_are_refused_unless_they_are_to_replace(model, loaders, out):
    first = adopt(model, loaders, out)
    with torch.no_grad():
        model.fc.bias.add_(1)
    with pytest.raises(RunError, match="other weights"):
        adopt(model, loaders, out)
    second = adopt(model, loaders, out, replace=True)
    assert second.manifest["id"] != first.manifest["id"]
    with pytest.raises(RunError, match="other stages"):
        lw.adopt(model, loaders, STAGES[:2], out=out)
    with pytest.raises(RunError, match=r"with mean=\[\], now it is \[0.3\]"):
        adopt(model, loaders, out, mean=[0.3], std=[0.4])
    with pytest.raises(RunError, match="images of val"):
        adopt(model, {**loaders, "val": loaders["test"]}, out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_run_that_another_process_has_made_meanwhile_stays(model, loaders, out, monkeypatch):
    from lwexplain.analysis import adopted_subject

    def meanwhile(run):
        monkeypatch.setattr(adopted_subject, "measure_network", measured)
        adopt(model, loaders, out)

    measured = adopted_subject.measure_network
    monkeypatch.setattr(adopted_subject, "measure_network", meanwhile)
    with pytest.raises(RunError, match="another process has made"):
        adopt(model, loaders, out)
    assert adopt(model, loaders, out).is_adopted
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_run_in_use_is_not_replaced(model, loaders, out):
    first = adopt(model, loaders, out)
    with first.lock("lwexplain analyze"), pytest.raises(RunError, match="in use by lwexplain analyze"):
        adopt(model, loaders, out, replace=True)
    assert lw.Run.open(out).manifest["id"] == first.manifest["id"]


def test_sub_samples_of_different_sizes_are_not_compared_row_by_row(model, home_of_images, out):
    data = {"name": "folder", "root": home_of_images}
    options = {"mean": [0.3], "std": [0.4]}
    small, large, again = (
        adopt(model, data, out / name, max_samples=most, **options)
        for name, most in (("small", 12), ("large", 20), ("again", 12))
    )
    assert small.manifest["data"]["sizes"]["val"] == 12
    assert len(lw.similarity(small, again)) == 9
    with pytest.raises(RunError, match="do not have the same val images"):
        lw.similarity(small, large)


def test_what_is_drawn_follows_the_seed_of_the_run(model, loaders, out):
    rows = []
    loaders = {split: list(loader) for split, loader in loaders.items()}
    for seed in (1, 1, 2):
        run = adopt(model, loaders, out / str(len(rows)), seed=seed)
        table = lw.analyze(run, ["ncm"], max_samples=100, quiet=True)
        assert set(table["seed"]) == {seed}
        rows.append(table[table["metric"] == "ncm_accuracy"]["value"].tolist())
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]


def test_a_folder_of_something_else_is_never_replaced(model, loaders, out):
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(RunError, match="not a run directory"):
            adopt(model, loaders, out, replace=replace)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_nothing_is_left_where_a_loader_breaks_off(model, loaders, out):
    def broken():
        yield next(iter(loaders["test"]))
        raise ValueError("the disk is gone")

    with pytest.raises(lw.LwexplainError, match="the disk is gone"):
        adopt(model, {**loaders, "test": broken()}, out)
    assert list(out.parent.iterdir()) == []


def test_generators_that_give_out_after_one_pass_are_enough_to_adopt(model, loaders, out):
    run = adopt(model, {split: iter(list(loader)) for split, loader in loaders.items()}, out)
    assert run.manifest["data"]["sizes"] == {"train": 600, "val": 300, "test": 300}


def test_a_run_without_test_is_analyzed(model, loaders, out):
    loaders.pop("test")
    table = lw.analyze(adopt(model, loaders, out), ["ncm"], quiet=True)
    assert set(table["split"]) == {"val", "none"}


def test_an_analysis_may_take_a_stratified_part(model, loaders, out):
    run = adopt(model, loaders, out)
    table = lw.analyze(run, ["ncm"], max_samples=100, quiet=True)
    rows = table[(table["metric"] == "ncm_accuracy") & table["class"].isna()]
    assert set(rows["n"]) == {100}
    assert "stratified sub-sample of val" in rows[rows["split"] == "val"]["note"].iloc[0]
    with pytest.raises(CaptureError, match="one image of each"):
        lw.analyze(run, ["ncm"], max_samples=4, replace=True, quiet=True)


def test_normalisation_is_two_lists_of_numbers(model, loaders, out):
    for wrong in (
        {"mean": [0.5]},
        {"mean": [0.5], "std": [0.0]},
        {"mean": "a", "std": 1},
        {"mean": [0, 0], "std": [1]},
    ):
        with pytest.raises(CaptureError, match=r"mean|std"):
            adopt(model, loaders, out, **wrong)


def test_rows_are_no_images(loaders, out):
    rows = {split: [(batch[0].flatten(1), batch[1]) for batch in loader] for split, loader in loaders.items()}
    network = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
    with pytest.raises(CaptureError, match="images"):
        lw.adopt(network, rows, ["0", "1"], out=out)
    assert not out.exists()
