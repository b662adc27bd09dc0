"""Two lines in a plain loop: every stage is looked at, and the training goes on as without them."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_loop import STAGES, made_images, small_network, train, val_loader
from torch import nn

import lwexplain as lw
from lwexplain.errors import CaptureError, LwexplainWarning, ModelError, RunError, UserCodeError
from lwexplain.monitoring.look import look_at
from lwexplain.monitoring.sample import take_sample
from lwexplain.probes.accuracy import wilson_interval
from lwexplain.results.looks import looks_table

METRICS = ["effective_rank", "linear_probe_accuracy", "ncm_accuracy", "separability_index"]


def test_two_lines_in_a_plain_loop_fill_a_run(tmp_path):
    model = small_network()
    monitor = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "live", share=None)
    seen = []
    train(model, 3, lambda epoch: seen.append(monitor.step(epoch)))
    assert [sorted(numbers) for numbers in seen] == [STAGES] * 3
    assert sorted(seen[0]["2"]) == METRICS
    assert sorted(seen[1]["2"]) == sorted([*METRICS, "cka_linear", "drift"])
    run = lw.Run.open(tmp_path / "live")
    assert run.status == "monitored"
    assert run.manifest["stages"] == STAGES
    assert run.manifest["progress"] == "epoch 2"
    table = looks_table(run.read_events())
    assert set(table["epoch"]) == {0, 1, 2}
    assert list(table.drop_duplicates("stage")["stage"]) == STAGES
    row = table[(table["epoch"] == 2) & (table["stage"] == "6") & (table["metric"] == "linear_probe_accuracy")].iloc[0]
    assert row["value"] == pytest.approx(seen[2]["6"]["linear_probe_accuracy"], abs=1e-6)
    assert (row["low"], row["high"]) == pytest.approx(wilson_interval(row["value"], 80), abs=1e-5)
    assert row["n"] == 80  # the half that is not fitted on
    assert seen[2]["6"]["linear_probe_accuracy"] > 0.6 > seen[2]["6"]["drift"]


@pytest.mark.parametrize("auto", ["auto", r"[26]"])
def test_stages_are_found_by_themselves_or_by_an_expression(tmp_path, auto):
    monitor = lw.Monitor(small_network(), val_loader(), auto, out=tmp_path / "live")
    assert monitor.stages
    assert monitor.run.manifest["stages"] == monitor.stages
    if auto != "auto":
        assert monitor.stages == STAGES


def test_the_training_is_bit_for_bit_the_same_with_and_without_it(tmp_path):
    bare = train(small_network())
    model = small_network()
    before = [module.training for module in model.modules()]
    monitor = lw.Monitor(model, val_loader(shuffle=True), STAGES, out=tmp_path / "live", share=None)
    assert [module.training for module in model.modules()] == before
    train(model, 2, monitor.step)
    for name, tensor in bare.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_look_between_forward_and_backward_leaves_gradients_and_graph_alone(tmp_path):
    model, (x, y) = small_network(), made_images(32)
    monitor = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "live", share=None)
    torch.manual_seed(3)
    loss = nn.functional.cross_entropy(model(x), y)
    monitor.step(0)
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    torch.manual_seed(3)
    nn.functional.cross_entropy(model(x), y).backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, atol=1e-6)


def test_a_compiled_network_and_one_under_autocast_are_looked_at_like_the_plain_one(tmp_path):
    model = small_network()
    plain = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "plain").step(0, force=True)
    compiled = torch.compile(model, backend="eager")
    assert lw.Monitor(compiled, val_loader(), STAGES, out=tmp_path / "compiled").step(0, force=True) == plain
    monitor = lw.Monitor(nn.DataParallel(model), val_loader(), STAGES, out=tmp_path / "cast")
    with torch.autocast("cpu", torch.bfloat16):
        assert monitor.step(0, force=True) == plain


def test_the_numbers_are_those_of_an_analysis_of_the_same_features(tmp_path):
    model = train(small_network())
    sample = take_sample(val_loader(), model, 1000)
    numbers = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "live").step(0, force=True)
    labels, fit = torch.from_numpy(sample.labels), torch.from_numpy(sample.fit)
    halves = {
        "train": [(sample.images[fit], labels[fit])],
        "val": [(sample.images[~fit], labels[~fit])],
    }
    whole = {"train": halves["train"], "val": [(sample.images, labels)]}
    of_halves = lw.analyze_model(model, halves, stages=STAGES, probes=["ncm"])
    of_all = lw.analyze_model(model, whole, stages=STAGES, probes=["separability", "geometry"])
    for table, metric in ((of_halves, "ncm_accuracy"), (of_all, "separability_index"), (of_all, "effective_rank")):
        rows = table[(table["metric"] == metric) & (table["split"] == "val") & table["class"].isna()]
        for stage in STAGES:
            expected = rows[rows["stage"] == stage].iloc[0]["value"]
            assert numbers[stage][metric] == pytest.approx(expected, rel=1e-6), (stage, metric)


def test_a_network_that_did_not_change_has_not_drifted_and_one_made_anew_has(tmp_path):
    model = small_network()
    monitor = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "live")
    monitor.step(0, force=True)
    assert all(abs(numbers["drift"]) < 1e-6 for numbers in monitor.step(1, force=True).values())
    with torch.no_grad():
        model[5].weight.copy_(torch.randn(16, 72, generator=torch.Generator().manual_seed(9)))
    numbers = monitor.step(2, force=True)
    assert abs(numbers["2"]["drift"]) < 1e-6
    assert numbers["6"]["drift"] > 0.1


def test_every_and_the_share_of_time_decide_when_it_looks(tmp_path):
    model = small_network()
    monitor = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "every", every=3, share=None)
    assert [monitor.step(epoch) is not None for epoch in range(7)] == [True, False, False, True, False, False, True]
    thrifty = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "thrifty", share=0.05)
    assert [thrifty.step(epoch) for epoch in range(5)] == [None] * 5  # there is no training between the steps
    assert thrifty.run.read_events() == []
    assert thrifty.step(5, force=True) is not None
    assert math.isfinite(thrifty.overhead)


def test_a_stage_that_holds_nan_says_so_and_the_training_goes_on(tmp_path):
    model = small_network()
    monitor = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "live", share=None)
    with torch.no_grad():
        model[5].weight.fill_(math.nan)
    numbers = monitor.step(0)
    assert sorted(numbers["2"]) == METRICS
    assert numbers["6"] == {}
    reasons = {event["stage"]: event.get("reason", "") for event in monitor.run.read_events()}
    assert "NaN or infinite" in reasons["6"]
    assert reasons["2"] == ""


def test_a_look_that_fails_is_told_once_and_never_ends_the_training(tmp_path):
    model = small_network()
    monitor = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "live", share=None)
    model[3] = nn.Identity()
    with pytest.warns(LwexplainWarning, match="no look at epoch 0: .*the training goes on"):
        assert monitor.step(0) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.step(1) is None


def test_what_is_wrong_from_the_start_is_said_before_the_training(tmp_path):
    model = small_network()
    for error, match, arguments in (
        (CaptureError, "no stage 'layer9'", {"stages": ["layer9"]}),
        (CaptureError, "share is 5", {"share": 5}),
        (CaptureError, "sink is 3", {"sink": 3}),
        (Exception, "every is 0", {"every": 0}),
        (Exception, "images is 3", {"images": 3}),
    ):
        with pytest.raises(error, match=match):
            lw.Monitor(model, val_loader(), out=tmp_path / "live", **{"stages": STAGES, **arguments})
    with pytest.raises(CaptureError, match="two such classes"):
        lw.Monitor(model, [(torch.randn(40, 1, 8, 8), torch.zeros(40).long())], STAGES, out=tmp_path / "live")
    with pytest.raises(UserCodeError, match="raised"):
        lw.Monitor(model, [(torch.randn(40, 3, 8, 8), torch.arange(40) % 2)], STAGES, out=tmp_path / "live")
    with pytest.raises(ModelError):
        lw.Monitor("resnet18", val_loader(), STAGES, out=tmp_path / "live")
    assert not (tmp_path / "live").exists()


def test_a_folder_that_is_not_empty_is_refused_and_resume_goes_on_with_it(tmp_path):
    model, out = small_network(), tmp_path / "live"
    with lw.Monitor(model, val_loader(), STAGES, out=out, share=None) as monitor:
        for epoch in (1, 2, 3):
            monitor.step(epoch)
    assert lw.Run.open(out).manifest["progress"] == "ended after epoch 3"
    with pytest.raises(RunError, match="not empty"):
        lw.Monitor(model, val_loader(), STAGES, out=out)
    again = lw.Monitor(model, val_loader(shuffle=True), STAGES, out=out, share=None, resume=True)
    again.step(3)  # the checkpoint was that of epoch 2
    again.step(4)
    table = looks_table(lw.Run.open(out).read_events())
    assert list(table["epoch"].unique()) == [1, 2, 3, 4]
    assert table[(table["epoch"] == 3) & (table["metric"] == "drift")].empty  # of before, no features are left
    with pytest.raises(RunError, match="other stages"):
        lw.Monitor(model, val_loader(), STAGES[:1], out=out, resume=True)
    with pytest.raises(RunError, match="other images"):
        lw.Monitor(model, val_loader(120), STAGES, out=out, resume=True)
    fresh = lw.Monitor(model, val_loader(), STAGES, out=tmp_path / "new", resume=True)
    assert fresh.run.status == "monitored"


def test_a_killed_loop_leaves_a_readable_run_to_go_on_with(tmp_path):
    out = tmp_path / "live"
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from plain_loop import STAGES, small_network, train, val_loader
        import lwexplain as lw
        model = small_network()
        monitor = lw.Monitor(model, val_loader(), STAGES, out={str(out)!r}, share=None)
        train(model, 100000, monitor.step)
    """
    loop = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    log = out / "events.jsonl"
    for _ in range(600):
        if log.exists() and log.read_text().count("\n") >= 4:
            break
        time.sleep(0.05)
    os.kill(loop.pid, signal.SIGKILL)
    loop.wait()
    with log.open("a") as file:
        file.write('{"event": "look", "epoch": 99, "sta')  # as the disk may hold a line that was begun
    run = lw.Run.open(out)
    table = looks_table(run.read_events())
    assert run.status == "monitored"
    assert table["epoch"].max() >= 1
    assert 99 not in set(table["epoch"])
    model = small_network()
    again = lw.Monitor(model, val_loader(), STAGES, out=out, share=None, resume=True)
    again.step(1000)
    table = looks_table(lw.Run.open(out).read_events())
    assert table["epoch"].max() == 1000
    assert np.isfinite(table["value"]).all()


def test_what_needs_a_network_says_how_a_monitored_run_gets_one(tmp_path):
    monitor = lw.Monitor(small_network(), val_loader(), STAGES, out=tmp_path / "live", share=None)
    monitor.step(0)
    for call in (lw.analyze, lw.recommend, lw.report, lambda run: lw.export(run, tmp_path / "net.pt2", depth=1)):
        with pytest.raises(RunError, match=r"holds what lw.Monitor saw .* lw.adopt\(model, loaders, out="):
            call(tmp_path / "live")


def test_the_code_and_the_weights_of_the_network_are_not_in_the_run(tmp_path):
    monitor = lw.Monitor(small_network(), val_loader(), STAGES, out=tmp_path / "live", share=None)
    monitor.step(0)
    names = {path.name for path in (tmp_path / "live").rglob("*") if path.is_file()}
    assert names == {"run.json", "config.yaml", "environment.json", "events.jsonl", ".lock"}


def test_wide_features_give_the_same_numbers_from_kernels(tmp_path):
    model = small_network()
    sample = take_sample(val_loader(), model, 1000).first(40)
    last = look_at(model, sample, ["2"], pooling="flatten")  # 384 features of 40 images
    with torch.no_grad():
        model[0].weight += 0.05 * torch.randn(model[0].weight.shape, generator=torch.Generator().manual_seed(1))
    look = look_at(model, sample, ["2"], pooling="flatten", last=last)
    found = {number.metric: number.value for number in look.stages[0].numbers}
    assert 0 < found["drift"] < 1
