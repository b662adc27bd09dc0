"""One call: the network cut at a depth, written, checked and measured."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

import lwexplain as lw
from lwexplain.advice.question import Question
from lwexplain.advice.recommend import recommend
from lwexplain.config import load_config
from lwexplain.data.batches import Batches
from lwexplain.data.load import load_data
from lwexplain.errors import ExportError, ModelError, RunError
from lwexplain.exporting.export import export_run
from lwexplain.results import read_metrics
from lwexplain.run import Run
from lwexplain.training.trained import open_trained
from lwexplain.views.exported import networks_table, remarks


def own_logits(run, depth):
    """Logits of the run's own model on test, by its own forward and its own way of reading images."""
    config = load_config(run.config())
    data = load_data(config.data, config.seed)
    model = open_trained(run, "cpu").model
    x, y, _ = next(iter(Batches(data.test, len(data.test), mean=data.mean, std=data.std, seed=0)))
    with torch.no_grad():
        return model(x, upto=depth).numpy(), y.numpy()


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).mean())


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("family", ["resnet18", "slim_resnet18", "vgg11", "cnn"])
def test_the_file_gives_the_logits_of_the_network(trained, tmp_path, family, suffix):
    run = trained(family, "bp", "block" if family == "cnn" else "group")
    exported = export_run(run, tmp_path / f"net.{suffix}", depth=2)
    assert set(exported.parity) == {1, 7}
    assert max(exported.parity.values()) <= 1e-4
    assert (exported.depth, exported.head, exported.full.head) == (2, "fresh", "local")
    assert exported.short.parameters < exported.full.parameters
    assert exported.short.flops < exported.full.flops


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_the_accuracy_that_is_printed_is_that_of_the_file_without_lwexplain(
    trained, test_images, stranger, tmp_path, suffix
):
    run, out = trained(), tmp_path / f"net.{suffix}"
    exported = export_run(run, out, depth=3)
    images, labels = test_images(run)
    logits, _, metadata = stranger(out, images)
    assert accuracy(logits, labels) == exported.short.test_accuracy.value
    assert exported.short.test_accuracy.n == len(labels)
    expected, _ = own_logits(run, 3)
    np.testing.assert_allclose(logits, expected, atol=1e-4)

    assert json.loads(metadata["classes"]) == list(exported.classes)
    assert json.loads(metadata["image_shape"]) == [3, 8, 8]
    assert json.loads(metadata["value_range"]) == [0, 1]
    assert (json.loads(metadata["stage"]), json.loads(metadata["depth"])) == ("conv3", 3)


@pytest.mark.parametrize("strategy", ["greedy", "decoupled"])
def test_auto_takes_the_head_that_the_stage_was_trained_with(trained, tmp_path, strategy):
    run = trained(strategy=strategy)
    exported = export_run(run, tmp_path / "net.pt2", depth=2)
    assert exported.head == "local"
    assert exported.short.test_accuracy.value == accuracy(*own_logits(run, 2))
    assert exported.full.test_accuracy.value == accuracy(*own_logits(run, 4))


def test_figures_of_the_full_network_do_not_depend_on_the_depth_of_the_export(trained, tmp_path):
    run = trained()
    shallow, whole = (export_run(run, tmp_path / "net.pt2", depth=depth) for depth in (1, 4))
    assert whole.depth == whole.full_depth == shallow.full_depth == 4
    for name in ("stage", "depth", "head", "test_accuracy", "parameters", "flops"):
        assert getattr(shallow.full, name) == getattr(whole.full, name) == getattr(whole.short, name)
    stem = 9 * 3 * 4 + 2 * 4
    assert shallow.short.parameters == stem + 4 * 4 + 4, "convolution, batch norm and a linear head of 4 classes"
    assert shallow.short.latency_median <= shallow.short.latency_p95


@pytest.fixture(scope="module")
def analyzed(trained):
    run = trained("cnn", "bp")
    lw.analyze(run, ["head", "linear"], max_samples=None)
    return run


@pytest.mark.parametrize("depth", [1, 3])
def test_a_fresh_head_reaches_what_the_linear_probe_of_an_analysis_reaches(analyzed, tmp_path, depth):
    table = read_metrics(analyzed)
    probe = table[
        (table["metric"] == "linear_probe_accuracy") & (table["split"] == "test") & table["class"].isna()
    ].set_index("depth")["value"]
    exported = export_run(analyzed, tmp_path / "net.pt2", depth=depth)
    assert exported.head == "fresh"
    assert "C=" in exported.head_note
    one_image = 1 / exported.short.test_accuracy.n
    assert exported.short.test_accuracy.value == pytest.approx(probe[depth], abs=1.01 * one_image)


def test_auto_cuts_where_the_recommendation_says(analyzed, tmp_path):
    advice = recommend(read_metrics(analyzed), Question(retrain=False))
    exported = export_run(analyzed, tmp_path / "net.pt2")
    assert (exported.depth, exported.stage, exported.verdict) == (advice.depth, advice.stage, advice.verdict)
    assert exported.reason == advice.reason
    assert exported.expected_accuracy == advice.expected_accuracy
    assert advice.reason in remarks(exported)[0]
    assert f"expected {advice.expected_accuracy:.4f}" in remarks(exported)[1]


def test_auto_minds_budgets(analyzed, tmp_path):
    smallest = export_run(analyzed, tmp_path / "net.pt2", depth=1).short.parameters
    assert export_run(analyzed, tmp_path / "net.pt2", question=Question(budgets={"params": smallest + 1})).depth == 1


def test_without_a_signal_there_is_no_depth_to_export(analyzed, tmp_path, monkeypatch):
    silent = dataclasses.replace(
        recommend(read_metrics(analyzed)), verdict="no_signal", depth=None, stage=None, reason="No better than chance."
    )
    monkeypatch.setattr("lwexplain.exporting.export.recommend", lambda *_args, **_kwargs: silent)
    with pytest.raises(ExportError, match=r"No better than chance\. Name a stage"):
        export_run(analyzed, tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


def test_auto_of_a_run_that_is_not_analyzed_names_the_command(trained, tmp_path):
    with pytest.raises(RunError, match="lwexplain analyze"):
        export_run(trained(), tmp_path / "net.pt2")


def test_a_stage_may_be_named_or_numbered(trained, tmp_path):
    found = {export_run(trained(), tmp_path / "net.pt2", depth=depth).stage for depth in ("conv2", 2, "2")}
    assert found == {"conv2"}


@pytest.mark.parametrize("depth", ["layer9", 5, 0, "0", "17"])
def test_a_stage_that_is_not_there_is_named(trained, tmp_path, depth):
    with pytest.raises(ModelError, match=f"no stage '?{depth}"):
        export_run(trained(), tmp_path / "net.pt2", depth=depth)


def test_a_stage_that_was_never_trained_is_not_there(trained, tmp_path, monkeypatch):
    """As in a run that stopped early."""
    run = Run.open(trained().path)
    run.manifest["trained_depth"] = 3
    with pytest.raises(ModelError, match="depth from 1 to 3"):
        export_run(run, tmp_path / "net.pt2", depth=4)
    assert export_run(run, tmp_path / "net.pt2", depth=2).full_depth == 3


def test_only_a_trained_run_is_exported(trained, tmp_path):
    run = Run.open(trained().path)
    run.manifest["status"] = "training"
    with pytest.raises(RunError, match="has not finished"):
        export_run(run, tmp_path / "net.pt2", depth=1)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(RunError, match="not a run directory"):
        export_run(tmp_path / "elsewhere", tmp_path / "net.pt2", depth=1)


def test_other_images_than_those_of_the_training_are_refused(trained, tmp_path):
    run = Run.open(trained().path)
    run.manifest["data"] = run.manifest["data"] | {"fingerprint": "0" * 64}
    with pytest.raises(RunError, match="differ from those"):
        export_run(run, tmp_path / "net.pt2", depth=1)


@pytest.mark.parametrize("early_exit", [False, True])
def test_a_file_that_differs_from_the_network_is_not_kept(trained, tmp_path, monkeypatch, early_exit):
    out = tmp_path / "net.pt2"
    out.write_text("from before")
    monkeypatch.setattr("lwexplain.exporting.parity.SHARE_OF_SPREAD", -1.0)
    with pytest.raises(ExportError, match="differs from the network"):
        export_run(trained(), out, depth=2, early_exit=early_exit)
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert out.read_text() == "from before"


def test_an_error_while_measuring_leaves_no_file(trained, tmp_path, monkeypatch):
    def broken(*_args):
        raise RuntimeError("on purpose")

    monkeypatch.setattr("lwexplain.exporting.export.measure_costs", broken)
    with pytest.raises(RuntimeError, match="on purpose"):
        export_run(trained(), tmp_path / "net.pt2", depth=2, early_exit=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused_before_any_work(trained, tmp_path):
    (tmp_path / "net.pt2").mkdir()
    with pytest.raises(ExportError, match=r"is a folder; name the file to write, such as .*network\.pt2"):
        export_run(trained(), tmp_path / "net.pt2", depth=1)


def test_missing_packages_are_named_with_the_extra(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'lwexplain\[export\]'"):
        export_run(trained(), tmp_path / "net.onnx", depth=1)


def test_a_local_head_that_is_not_there_is_refused(trained, tmp_path):
    with pytest.raises(ExportError, match="'conv2' was trained without a head"):
        export_run(trained("cnn", "bp"), tmp_path / "net.pt2", depth=2, head="local")
    with pytest.raises(ExportError, match="choose one of auto, local, fresh"):
        export_run(trained("cnn", "bp"), tmp_path / "net.pt2", depth=2, head="linear")


def test_the_table_keeps_the_two_networks_apart(trained, tmp_path):
    exported = export_run(trained(), tmp_path / "net.pt2", depth=2)
    table = networks_table(exported)
    assert table.header == ["", "shorter (conv2)", "full (conv4)", "shorter / full"]
    assert [row[0] for row in table.rows] == [
        "accuracy on test",
        "parameters",
        "FLOPs an image",
        "latency, median",
        "latency, 95th percentile",
    ]
    assert table.rows[1][1:3] == [f"{exported.short.parameters:,}", f"{exported.full.parameters:,}"]
    assert any(str(tmp_path / "net.pt2") in line for line in remarks(exported))
    tree = json.loads(json.dumps(exported.to_dict()))
    assert tree["short"]["flops"] == exported.short.flops
    assert tree["full"]["flops"] == exported.full.flops
    assert (tree["stage"], tree["head"], tree["bytes"]) == ("conv2", "local", (tmp_path / "net.pt2").stat().st_size)
