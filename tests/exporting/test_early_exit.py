"""Early exit: files between which a sample leaves, and figures that somebody else can reproduce."""

import json

import numpy as np
import pytest

from lwexplain.advice.question import Question
from lwexplain.errors import ExportError
from lwexplain.exporting.export import export_run
from lwexplain.exporting.source import TrainedSource
from lwexplain.views.exported import exits_table, remarks


@pytest.mark.parametrize(
    ("settings", "depth", "suffix"),
    [
        (("cnn", "greedy"), 4, "onnx"),
        (("resnet18", "greedy", "layer"), 4, "onnx"),
        (("resnet18", "bp", "layer"), 4, "pt2"),
    ],
)
def test_a_plain_loop_over_the_files_reproduces_the_figures(
    trained, test_images, stranger, tmp_path, settings, depth, suffix
):
    """``layer`` cuts a ResNet inside its blocks, where a state is two tensors."""
    run = trained(*settings)
    early = export_run(
        run, tmp_path / f"net.{suffix}", depth=depth, early_exit=True, question=Question(0.02)
    ).early_exit
    images, labels = test_images(run)
    logits, places, _ = stranger(early.index_file, images)
    assert float((logits.argmax(1) == labels).mean()) == early.test_accuracy.value
    shares = np.bincount(places, minlength=len(early.exits)) / len(places)
    assert shares.tolist() == pytest.approx([exit_.test_share for exit_ in early.exits])
    assert early.test_mean_flops == pytest.approx(np.mean([early.exits[place].flops for place in places]))
    assert max(early.parity.values()) <= 1e-4


def test_the_exits_end_at_the_chosen_depth_and_the_index_names_their_files(trained, tmp_path):
    exported = export_run(trained(), tmp_path / "net.onnx", depth=3, early_exit=True, question=Question(0.5))
    early = exported.early_exit
    depths = [exit_.depth for exit_ in early.exits]
    assert depths == sorted(set(depths))
    assert depths[-1] == 3
    assert early.exits[-1].threshold == 0
    assert early.flops_of_chosen_depth == exported.short.flops
    index = json.loads((tmp_path / "net.exits.json").read_text())
    files = [exit_["file"] for exit_ in index["exits"]]
    assert files == [f"net.exit{place}.onnx" for place in range(1, len(depths) + 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["net.onnx", "net.exits.json", *files])
    assert [exit_["threshold"] for exit_ in index["exits"]] == [exit_.threshold for exit_ in early.exits]
    assert len(exits_table(exported).rows) == len(depths)
    assert any("early exit" in line for line in remarks(exported))


def test_a_wide_tolerance_buys_cheaper_answers(trained, tmp_path):
    exact, loose = (
        export_run(trained(), tmp_path / "net.pt2", depth=4, early_exit=True, question=Question(tolerance)).early_exit
        for tolerance in (0.0, 0.9)
    )
    assert loose.test_mean_flops <= exact.test_mean_flops
    assert loose.exits[0].test_share == 1, "the first head answers everything where errors do not count"


def test_one_local_head_is_not_enough_to_leave_early(trained, tmp_path):
    with pytest.raises(ExportError, match="two depths or more"):
        export_run(trained("cnn", "bp"), tmp_path / "net.pt2", depth=4, head="local", early_exit=True)


def test_test_decides_neither_thresholds_nor_exits(trained, tmp_path, monkeypatch):
    """The labels of test are exchanged: what is reported of them changes, the exits and their thresholds do not."""
    true, wrong = [], []
    for found in (true, wrong):
        if found is wrong:
            pixels = TrainedSource.pixels

            def exchanged(self, split, pixels=pixels):
                for images, labels in pixels(self, split):
                    yield images, (labels + 1) % len(self.classes) if split == "test" else labels

            monkeypatch.setattr(TrainedSource, "pixels", exchanged)
        exported = export_run(trained(), tmp_path / "net.pt2", depth=4, early_exit=True, question=Question(0.1))
        found.append([(exit_.stage, exit_.threshold, exit_.flops) for exit_ in exported.early_exit.exits])
        found.append(exported.short.test_accuracy.value)
    assert true[0] == wrong[0]
    assert true[1] != wrong[1]
