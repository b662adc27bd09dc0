"""LayerMonitorCallback in a real ``train`` of transformers: two epochs on the CPU, batches as dicts."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import lwexplain as lw
from lwexplain.errors import CaptureError
from lwexplain.results.looks import looks_table

transformers = pytest.importorskip("transformers", reason="not installed: pip install 'lwexplain[transformers]'")
from lwexplain.integrations.transformers import LayerMonitorCallback  # noqa: E402


class Images(Dataset):
    def __init__(self, n):
        self.labels = torch.arange(n) % 3
        self.images = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))
        self.images[torch.arange(n), :, self.labels] += 2

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, at):
        return {"pixel_values": self.images[at], "labels": self.labels[at]}


def network():
    """A vision transformer of two blocks; the same weights every time."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="the Trainer needs accelerate")


def train(tmp_path, *callbacks, **settings):
    """Two epochs; the network."""
    model = network()
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        num_train_epochs=2,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=20,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=3,
        **settings,
    )
    trainer = transformers.Trainer(
        model, args, train_dataset=Images(48), eval_dataset=Images(60), callbacks=list(callbacks)
    )
    trainer.train()
    return model


def epochs_in(folder):
    return sorted(set(looks_table(lw.Run.open(folder).read_events())["epoch"]))


@needs_accelerate
def test_a_real_train_is_looked_at_each_epoch_and_learns_as_without(tmp_path):
    sent = []
    loader = DataLoader(Images(60), batch_size=20)
    callback = LayerMonitorCallback(
        loader, out=tmp_path / "live", share=None, sink=lambda numbers, step: sent.append(step)
    )
    watched = train(tmp_path, callback)
    assert epochs_in(tmp_path / "live") == [1, 2]
    assert len(callback.monitor.stages) >= 2
    assert sent == [3, 6]  # three batches an epoch
    assert lw.Run.open(tmp_path / "live").manifest["progress"] == "ended after epoch 2"
    bare = train(tmp_path)
    for name, tensor in bare.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name


@needs_accelerate
def test_without_a_loader_looks_begin_with_the_first_evaluation(tmp_path):
    callback = LayerMonitorCallback(out=tmp_path / "live", share=None)
    train(tmp_path, callback, eval_strategy="epoch")
    assert epochs_in(tmp_path / "live") == [1, 2]


def test_a_folder_must_be_named():
    with pytest.raises(CaptureError, match="needs out="):
        LayerMonitorCallback()


def test_the_events_of_a_training_as_transformers_sends_them(tmp_path):
    """By its own CallbackHandler, which also refuses what is no callback."""
    from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

    model, state, control = network(), TrainerState(), TrainerControl()
    args = SimpleNamespace(num_train_epochs=2)
    callback = LayerMonitorCallback(out=tmp_path / "live", share=None)
    handler = CallbackHandler([callback], model, None, None, None)
    handler.on_train_begin(args, state, control)
    assert callback.monitor is None
    for epoch in (1, 2):
        state.epoch, state.global_step = float(epoch), 3 * epoch
        handler.on_epoch_end(args, state, control)
        handler.eval_dataloader = DataLoader(Images(60), batch_size=20)  # known once it evaluates
        handler.on_evaluate(args, state, control, metrics={})
    handler.on_train_end(args, state, control)
    assert epochs_in(tmp_path / "live") == [1, 2]
    assert lw.Run.open(tmp_path / "live").manifest["progress"] == "ended after epoch 2"
