"""What only an accelerator can show: a step that never waits, and the same training there as on the CPU."""

import shutil

import pytest
import torch

import lwexplain as lw
from lwexplain.config import load_config
from lwexplain.data.load import load_data
from lwexplain.models.activations import ActivationMeter
from lwexplain.run import Run
from lwexplain.training.loop import Trainer
from lwexplain.training.strategies.base import STRATEGIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

TINY = {
    "data": {
        "name": "synthetic",
        "batch_size": 32,
        "augment": {"crop": 1, "flip": True, "cutout": 2},
        "options": {"samples": 600, "size": 8, "classes": 3, "difficulty": 0.2},
    },
    "model": {"name": "resnet10", "width": 8},
    "training": {"epochs": 2, "optimizer": {"lr": 0.02}},
}


def trainer_of(device="cuda", **training):
    config = load_config(TINY, {"device": device, **{f"training.{key}": value for key, value in training.items()}})
    return Trainer(config, load_data(config.data, config.seed).for_training())


def fitted(path, **options):
    trainer = trainer_of(**options)
    trainer.fit(Run.create(path, trainer.config.to_yaml()))
    return trainer


@pytest.mark.parametrize("loss", ["cross_entropy", "predsim", "infopro", "separability", "forward_forward"])
@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_a_step_never_waits_for_the_device(strategy, loss):
    trainer = trainer_of(strategy=strategy, loss=loss, precision="bf16")
    trainer.prepare(trainer.phases[0])
    trainer.model.train()
    batches = trainer.prefix.training(trainer.train_batches, 0, 0, 0)
    trainer._step(trainer.phases[0], next(batches))  # lazy initialisation may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer._step(trainer.phases[0], next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_training_there_is_as_good_as_on_the_cpu(tmp_path, strategy):
    final = {}
    for device in ("cpu", "cuda"):
        trainer = fitted(tmp_path / device, device=device, strategy=strategy, epochs=6)
        final[device] = [event for event in trainer.run.read_events() if event["event"] == "epoch"][-1]
    assert final["cuda"]["val_accuracy"] > 0.6
    assert abs(final["cuda"]["val_accuracy"] - final["cpu"]["val_accuracy"]) < 0.2


def test_activation_bytes_follow_what_the_allocator_says(tmp_path):
    """The meter does not see workspaces and rounding; it must lie between half and the whole of the allocator's peak
    beyond what was there before the step."""
    trainer = trainer_of(strategy="bp")
    trainer.prepare(trainer.phases[0])
    trainer.model.train()
    batches = trainer.prefix.training(trainer.train_batches, 0, 0, 0)
    trainer._step(trainer.phases[0], next(batches))
    batch = next(batches)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with ActivationMeter(trainer.model.parameters()) as meter:
        trainer._go_through_units(batch, 1.0, synchronise=True)
    measured = torch.cuda.max_memory_allocated() - before
    assert 0.5 * measured < meter.peak_bytes <= measured


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices")
def test_stages_on_two_devices_train_as_on_one(tmp_path):
    one = fitted(tmp_path / "one", strategy="decoupled")
    two = fitted(tmp_path / "two", strategy="decoupled", strategy_options={"devices": ["cuda:0", "cuda:1"]})
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name].cpu(), tensor.cpu(), rtol=1e-3, atol=1e-4)


def test_an_analysis_on_cuda_finds_what_one_on_the_cpu_finds(tmp_path):
    probes = ["head", "linear", "knn", "ncm", "separability", "collapse", "geometry", "similarity"]
    run = lw.train(TINY, {"device": "cuda", "training.strategy": "greedy"}, run_dir=tmp_path / "run", quiet=True)
    copy = shutil.copytree(run.path, tmp_path / "copy")  # else the second analysis would read the results of the first
    tables = [
        lw.analyze(path, probes, precision="float32", device=device, quiet=True)
        for path, device in ((run, "cpu"), (copy, "cuda"))
    ]
    cpu, cuda = (table[~table["probe"].isin(["cost", "receptive_field"])].reset_index(drop=True) for table in tables)
    assert cpu["metric"].tolist() == cuda["metric"].tolist()
    apart = (cpu["value"] - cuda["value"]).abs() / cpu["value"].abs().clip(lower=1e-3)
    assert apart.median() < 1e-5
    assert (apart < 0.05).all()


@pytest.mark.parametrize("head", ["local", "fresh"])
def test_a_network_exported_from_cuda_runs_on_the_cpu_as_it_did_there(tmp_path, head):
    run = lw.train(TINY, {"device": "cuda", "training.strategy": "greedy"}, run_dir=tmp_path / "run", quiet=True)
    exported = lw.export(run, tmp_path / "net.pt2", depth=3, head=head, device="cuda", quiet=True)
    assert max(exported.parity.values()) <= 1e-4
    assert exported.device.startswith("cuda")
    images = load_data(load_config(run.config()).data, 0).test.images[:7].float() / 255
    logits = torch.export.load(tmp_path / "net.pt2").module()(images)
    assert logits.shape == (7, 3)
    assert logits.device.type == "cpu"
