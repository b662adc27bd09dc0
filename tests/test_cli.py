"""The command line as a person uses it; in a process of its own where the process is killed."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from lwexplain.advice.simple_rules import SIMPLE_RULES
from lwexplain.cli import main
from lwexplain.errors import LwexplainError
from lwexplain.training.checkpoint import load_checkpoint

TINY = """
data: {name: synthetic, batch_size: 32, options: {samples: 400, size: 8, classes: 3}}
model: {name: cnn, width: 4, options: {depth: 3}}
training: {strategy: greedy, epochs: 2, head: conv, optimizer: {lr: 0.05}}
"""


@dataclass
class Done:
    """How a call of the command line ended."""

    returncode: int
    stdout: str
    stderr: str


def lwexplain(*arguments, cwd=".", check=None):
    """Call the entry point with these arguments in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["lwexplain", *map(str, arguments)])
        try:
            main()
        except SystemExit as exit:
            code = exit.code
    if check is not None:
        assert code == check, out.getvalue() + err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(TINY)
    lwexplain("train", folder / "tiny.yaml", "--run-dir", folder / "run", check=0)
    lwexplain("analyze", folder / "run", "--probes", "head,linear,knn", check=0)
    return folder / "run"


# ---------------------------------------------------------------------- the way through


def test_train_prints_the_stages_and_the_next_command(tmp_path, config):
    done = lwexplain("train", config, "training.epochs=1", cwd=tmp_path, check=0)
    assert re.search(r"3 +conv3 +\d", done.stdout)
    assert "next: lwexplain analyze runs/tiny" in done.stdout
    assert done.stderr == ""


def test_analyze_prints_a_row_a_depth(trained):
    done = lwexplain("analyze", trained, "--probes", "knn", check=0)
    assert [line.split()[1] for line in done.stdout.splitlines()[2:5]] == ["conv1", "conv2", "conv3"]


def test_recommend_json_has_the_agreed_keys(trained):
    advice = json.loads(lwexplain("recommend", trained, "--json", check=0).stdout)
    assert {
        "verdict", "stage", "depth", "depth_interval", "tolerance", "expected_accuracy", "expected_accuracy_interval",
        "full_accuracy", "params_ratio", "flops_ratio", "latency_ratio", "reason",
    } <= set(advice)  # fmt: skip
    assert advice["tolerance"] == 0.005
    assert json.loads((trained / "analysis/recommendation.json").read_text()) == advice


def test_recommend_shows_where_simple_rules_would_stop_only_when_asked(trained):
    done = lwexplain("recommend", trained, "--rules", check=0)
    _, _, rows = done.stdout.partition("what it does\n")
    lines = rows.splitlines()[2:]
    assert [line[: len(name)] for line, name in zip(lines, SIMPLE_RULES, strict=True)] == list(SIMPLE_RULES)
    assert "cannot be applied, the table lacks saturation" in rows
    asked, plain = advice_of(trained, "--rules"), advice_of(trained)
    assert [stop["rule"] for stop in asked.pop("rules")] == list(SIMPLE_RULES)
    assert asked == plain


def test_recommend_lists_what_every_depth_promises_and_costs(trained):
    done = lwexplain("recommend", trained, check=0)
    header = next(line for line in done.stdout.splitlines() if line.startswith("depth"))
    assert "expected accuracy" in header
    assert "memory (MiB)" in header
    assert len(re.findall(r"^ +\d  conv\d  0\.\d{4}  \[", done.stdout, re.MULTILINE)) == 3


def test_a_budget_bounds_the_recommended_depth(trained):
    costs = {row["depth"]: row["parameters"] for row in advice_of(trained)["prospects"]}
    within = advice_of(trained, "--max-params", costs[2] + 1, "--objective", "accuracy")
    assert within["depth"] <= 2
    assert within["budgets"] == {"params": costs[2] + 1}
    bound = advice_of(trained, "--max-latency", 1000, "--max-memory", "1GB", "--max-flops", "1e12")["budgets"]
    assert bound == {"latency": 1.0, "memory": 1e9, "flops": 1e12}


def test_a_budget_that_nothing_keeps_is_a_clear_error(trained):
    done = lwexplain("recommend", trained, "--max-params", 3, check=2)
    assert re.search(r"error: no depth keeps params within 3 parameters: the least is [\d,]+ parameters", done.stderr)
    done = lwexplain("recommend", trained, "--objective", "speed", check=2)
    assert "no objective 'speed'" in done.stderr


def advice_of(run, *options):
    return json.loads(lwexplain("recommend", run, *options, "--json", check=0).stdout)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_export_prints_both_networks_side_by_side(trained, tmp_path, suffix):
    file = tmp_path / f"net.{suffix}"
    done = lwexplain("export", trained, "--depth", "conv2", "--out", file, check=0)
    assert file.exists()
    assert re.search(r"shorter \(conv2\) +full \(conv3\)", done.stdout)
    for row in ("accuracy on test", "parameters", "FLOPs an image", "latency, median", "latency, 95th percentile"):
        assert row in done.stdout
    assert "at batch 1" in done.stdout
    assert "at batch 7" in done.stdout


def test_export_takes_a_number_of_stages_and_prints_json(trained, tmp_path):
    done = lwexplain("export", trained, "--depth", 1, "--head", "fresh", "--out", tmp_path / "n.pt2", "--json", check=0)
    found = json.loads(done.stdout)
    assert (found["depth"], found["stage"], found["head"]) == (1, "conv1", "fresh")
    assert max(found["parity"].values()) <= 1e-4


def test_export_to_a_stage_or_format_that_is_not_there_leaves_nothing(trained, tmp_path):
    done = lwexplain("export", trained, "--depth", "conv9", "--out", tmp_path / "net.pt2", check=2)
    assert "no stage 'conv9'" in done.stderr
    done = lwexplain("export", trained, "--out", tmp_path / "net.bin", check=2)
    assert "pt2" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_recommend_in_words_names_stage_and_reason(trained):
    done = lwexplain("recommend", trained, "--tolerance", "0.2", check=0)
    assert re.search(r"recommendation: \w+ - conv\d, depth \d of 3", done.stdout)
    assert "val samples" in done.stdout


def test_report_writes_a_file_that_opens_offline(trained, tmp_path):
    out = tmp_path / "r.html"
    assert str(out) in lwexplain("report", trained, "--out", out, check=0).stdout
    page = out.read_text()
    assert "conv3" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]+https?:", page)


def test_compare_lists_both_runs(trained, tmp_path, config):
    lwexplain("train", config, "training.strategy=bp", "--run-dir", tmp_path / "bp", check=0)
    lwexplain("analyze", tmp_path / "bp", "--probes", "linear", check=0)
    done = lwexplain("compare", trained, tmp_path / "bp", check=0)
    assert "greedy" in done.stdout
    assert "bp" in done.stdout
    assert len(json.loads(lwexplain("compare", trained, tmp_path / "bp", "--json", check=0).stdout)) == 2


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("datasets", ["digits", "fashion_mnist", "cifar10", "folder", "synthetic", "emnist", "stl10"]),
        ("models", ["resnet18", "slim_resnet18", "vgg11", "cnn", "torchvision", "timm"]),
        ("strategies", ["bp", "greedy", "decoupled"]),
        ("losses", ["cross_entropy"]),
        ("heads", ["linear", "conv"]),
        ("probes", ["separability", "linear", "knn", "umap", "attribution"]),
    ],
)
def test_list_names_and_describes_everything(kind, names):
    lines = lwexplain("list", kind, check=0).stdout.splitlines()
    assert set(names) <= {line.split()[0] for line in lines}
    assert all(len(line.split()) > 2 for line in lines), "each has a description"


# ---------------------------------------------------------------------- bad input: exit 2, one or two lines


def image_folder(folder, classes=("cat", "dog"), count=12):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (8, 8), 20 * index).save(folder / name / f"{index}.png")
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing_config(tmp_path, config):
    return ["train", tmp_path / "nowhere.yaml"], "no configuration file"


def unknown_key(tmp_path, config):
    return ["train", config, "training.epoch=3"], "did you mean 'epochs'"


def wrong_type(tmp_path, config):
    return ["train", config, "training.epochs=many"], "training.epochs"


def unknown_data_set(tmp_path, config):
    return ["train", config, "data.name=minst", "data.options=null"], "data.options"


def unknown_data_set_name(tmp_path, config):
    config.write_text("data: {name: minst}")
    return ["train", config], "did you mean 'mnist'"


def unknown_option(tmp_path, config):
    return ["train", config, "data.options.sample=3"], "did you mean 'samples'"


def missing_data(tmp_path, config):
    config.write_text(f"data: {{name: cifar10, root: {tmp_path / 'empty'}}}")
    return ["train", config], "download"


def one_class(tmp_path, config):
    config.write_text(f"data: {{name: folder, root: {image_folder(tmp_path / 'images', ['cat'])}}}")
    return ["train", config], "class"


def truncated_image(tmp_path, config):
    folder = image_folder(tmp_path / "images")
    truncate(folder / "dog" / "3.png")
    config.write_text(f"data: {{name: folder, root: {folder}}}\nmodel: {{name: cnn, width: 4}}")
    return ["train", config], "3.png"


def missing_run(tmp_path, config):
    return ["analyze", tmp_path / "nowhere"], "no run directory"


def foreign_folder(tmp_path, config):
    return ["recommend", tmp_path], "has no run.json"


def half_written_run(tmp_path, config):
    lwexplain("train", config, "--run-dir", tmp_path / "run", check=0)
    manifest = tmp_path / "run" / "run.json"
    manifest.write_text(manifest.read_text().replace('"trained"', '"training"'))
    return ["analyze", tmp_path / "run"], "--resume"


def cut_checkpoint(tmp_path, config):
    lwexplain("train", config, "--run-dir", tmp_path / "run", check=0)
    truncate(tmp_path / "run" / "checkpoints" / "last.safetensors")
    return ["analyze", tmp_path / "run"], "cut short or damaged"


def diverging_loss(tmp_path, config):
    return ["train", config, "training.optimizer.lr=1e30", "--run-dir", tmp_path / "run"], "last good checkpoint"


def run_in_the_way(tmp_path, config):
    (tmp_path / "thesis.tex").write_text("")
    return ["train", config, "--run-dir", tmp_path], "not empty"


def not_analyzed(tmp_path, config):
    lwexplain("train", config, "training.epochs=1", "--run-dir", tmp_path / "run", check=0)
    return ["recommend", tmp_path / "run"], "lwexplain analyze"


def unknown_probe(tmp_path, config):
    lwexplain("train", config, "training.epochs=1", "--run-dir", tmp_path / "run", check=0)
    return ["analyze", tmp_path / "run", "--probes", "linaer"], "did you mean 'linear'"


def absent_device(tmp_path, config):
    return ["train", config, "device=cuda:99"], "device=cpu"


BAD = [
    missing_config, unknown_key, wrong_type, unknown_data_set, unknown_data_set_name, unknown_option, missing_data,
    one_class, truncated_image, missing_run, foreign_folder, half_written_run, cut_checkpoint, diverging_loss,
    run_in_the_way, not_analyzed, unknown_probe, absent_device,
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.__name__)
def test_bad_input_is_one_clear_error_and_exit_code_2(case, tmp_path, config):
    arguments, words = case(tmp_path, config)
    done = lwexplain(*arguments, cwd=tmp_path, check=2)
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    with pytest.raises(LwexplainError):  # what Python then shows with its traceback
        lwexplain(*arguments, "--verbose", cwd=tmp_path)


# ---------------------------------------------------------------------- killed, and gone on


def final_weights(run):
    tensors, _ = load_checkpoint(Path(run) / "checkpoints" / "last.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}


def start(config, run):
    command = [sys.executable, "-m", "lwexplain", "train", config, *LONGER, "--run-dir", run]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


LONGER = ["data.options.samples=2400", "training.epochs=3", "training.checkpoint_seconds=0.05"]


def wait_for_stage(run, stage, process):
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        log = Path(run) / "events.jsonl"
        if log.exists() and f'"stage": "{stage}"' in log.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"stage {stage} was not reached: {process.communicate()[1]}")


def test_sigkill_in_the_middle_of_a_stage_then_resume_gives_bit_identical_weights(tmp_path, config):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    lwexplain("train", config, *LONGER, "--run-dir", whole, check=0)
    process = start(config, killed)
    wait_for_stage(killed, "conv2", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((killed / "run.json").read_text())["status"] == "training"
    lwexplain("train", config, *LONGER, "--run-dir", killed, "--resume", check=0)
    expected, found = final_weights(whole), final_weights(killed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_an_error_in_a_process_of_its_own_leaves_no_traceback(tmp_path):
    command = [sys.executable, "-m", "lwexplain", "train", tmp_path / "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no configuration file")
    assert done.stderr.count("\n") == 1


def test_sigterm_saves_and_says_how_to_go_on(tmp_path, config):
    process = start(config, tmp_path / "run")
    wait_for_stage(tmp_path / "run", "conv1", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
