"""LayerMonitor in a real ``fit`` of Lightning: two epochs on the CPU."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lwexplain as lw
from lwexplain.errors import CaptureError, ModelError
from lwexplain.results.looks import looks_table

pl = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install 'lwexplain[lightning]'")
from lwexplain.integrations.lightning import LayerMonitor  # noqa: E402


def images_and_labels(n):
    labels = torch.arange(n) % 3
    images = torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(n))
    images[torch.arange(n), 0, labels] += 2
    return TensorDataset(images, labels)


def module_of(pl):
    """The module class as a person writes it, for Lightning under either of its names."""
    return type("Module", (Loop, pl.LightningModule), {})


class Loop:
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, *callbacks, val=True, logger=False, sanity=2, pl=pl):
    """Two epochs of a new module; the module."""
    module = module_of(pl)()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=sanity,
        default_root_dir=tmp_path,
    )
    torch.manual_seed(1)
    loaders = [DataLoader(images_and_labels(48), batch_size=16, shuffle=True)]
    loaders += [DataLoader(images_and_labels(60), batch_size=20)] if val else []
    trainer.fit(module, *loaders)
    return module


@pytest.mark.parametrize(("network", "stages", "sanity"), [("net", ["1", "3"], 2), (None, ["net.1", "net.3"], 0)])
def test_a_real_fit_is_looked_at_each_epoch_and_learns_as_without(tmp_path, network, stages, sanity):
    monitor = LayerMonitor(out=tmp_path / "live", stages=stages, network=network, share=None)
    watched = fit(tmp_path, monitor, sanity=sanity)
    run = lw.Run.open(tmp_path / "live")
    table = looks_table(run.read_events())
    assert set(table["epoch"]) == {0, 1}
    assert list(table.drop_duplicates("stage")["stage"]) == stages
    assert run.manifest["progress"] == "ended after epoch 1"
    bare = fit(tmp_path, sanity=sanity)
    for name, tensor in bare.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name


def test_pytorch_lightning_takes_it_too(tmp_path):
    other = pytest.importorskip("pytorch_lightning")
    fit(tmp_path, LayerMonitor(out=tmp_path / "live", network="net", share=None), pl=other)
    assert set(looks_table(lw.Run.open(tmp_path / "live").read_events())["epoch"]) == {0, 1}


def test_the_loader_may_be_given_and_the_logger_of_the_trainer_be_the_sink(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    loader = DataLoader(images_and_labels(60), batch_size=20)
    monitor = LayerMonitor(loader, out=tmp_path / "live", network="net", sink="logger", share=None)
    fit(tmp_path, monitor, val=False, logger=logger)
    found = [row for row in logger.experiment.metrics if any(key.startswith("lwexplain/") for key in row)]
    text = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text()
    assert found or "lwexplain/" in text
    assert monitor.monitor.stages


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(CaptureError, match="needs out="):
        LayerMonitor()
    with pytest.raises(CaptureError, match="no val loader"):
        fit(tmp_path, LayerMonitor(out=tmp_path / "live"), val=False)
    with pytest.raises(ModelError, match=r"network is 'model'.* it has net, loss"):
        fit(tmp_path, LayerMonitor(out=tmp_path / "live", network="model"))
    with pytest.raises(CaptureError, match="no logger"):
        fit(tmp_path, LayerMonitor(out=tmp_path / "live", network="net", sink="logger"))
